// SPDX-License-Identifier: GPL-2.0

#include <linux/rwsem.h>

__rust_helper void
rust_helper_down_write_nest_lock(struct rw_semaphore *sem,
				 struct rw_semaphore *nest)
{
	down_write_nest_lock(sem, nest);
}

__rust_helper void rust_helper_rwsem_assert_held(struct rw_semaphore *sem)
{
	lockdep_assert_held(sem);
}

__rust_helper void rust_helper_rwsem_assert_held_write(struct rw_semaphore *sem)
{
	lockdep_assert_held_write(sem);
}
