// SPDX-License-Identifier: GPL-2.0-only
/*
 * An in-kernel user of iommufd that does what user space tells it, so that the
 * cost of pinning and copying can be measured without CONFIG_IOMMUFD_TEST; and
 * counts of the kernel's memory, now and at most, for what iommufd needs.
 *
 * Each open file of /dev/iommufd_bench_access is one access. Its owner unpins
 * what it has pinned before it unmaps that or closes the file.
 */
#include <linux/fs.h>
#include <linux/hrtimer.h>
#include <linux/iommufd.h>
#include <linux/miscdevice.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>

#include "iommufd_bench_access.h"

struct bench_access {
	struct iommufd_access *access;
	struct page *pages[IOMMUFD_BENCH_ACCESS_MAX / PAGE_SIZE + 1];
	char buffer[IOMMUFD_BENCH_ACCESS_MAX];
};

static void bench_access_unmap(void *data, unsigned long iova,
			       unsigned long length)
{
}

static const struct iommufd_access_ops bench_access_ops = {
	.needs_pin_pages = 1,
	.unmap = bench_access_unmap,
};

static int bench_access_attach(struct file *file, int fd, u32 ioas_id)
{
	struct bench_access *bench;
	struct iommufd_ctx *ictx;
	u32 id;
	int rc;

	if (file->private_data)
		return -EBUSY;
	bench = kvzalloc(sizeof(*bench), GFP_KERNEL);
	if (!bench)
		return -ENOMEM;
	ictx = iommufd_ctx_from_fd(fd);
	if (IS_ERR(ictx)) {
		rc = PTR_ERR(ictx);
		goto err_free;
	}
	bench->access = iommufd_access_create(ictx, &bench_access_ops, bench,
					      &id);
	iommufd_ctx_put(ictx);
	if (IS_ERR(bench->access)) {
		rc = PTR_ERR(bench->access);
		goto err_free;
	}
	rc = iommufd_access_attach(bench->access, ioas_id);
	if (rc)
		goto err_destroy;
	file->private_data = bench;
	return 0;

err_destroy:
	iommufd_access_destroy(bench->access);
err_free:
	kvfree(bench);
	return rc;
}

static u64 bench_pages(enum node_stat_item item)
{
	struct pglist_data *pgdat = NODE_DATA(0);
	long pages = global_node_page_state_pages(item);
	int cpu;

	for_each_online_cpu(cpu)
		pages += per_cpu_ptr(pgdat->per_cpu_nodestats,
				     cpu)->vm_node_stat_diff[item];
	return max(pages, 0);
}

/*
 * The most memory there was is found by a timer that interrupts the processor
 * whose work is watched: a thread elsewhere would see nothing as long as it
 * does not run, and here nothing happens as long as the timer does not. What it
 * may miss is what comes and goes between two looks.
 */
static struct hrtimer bench_watch;
static u64 bench_most;

/* Of a machine with one node, as the guest of the benchmark is. */
static struct iommufd_bench_usage bench_look(void)
{
	struct iommufd_bench_usage usage = {
		.slab_pages = bench_pages(NR_SLAB_RECLAIMABLE_B) +
			      bench_pages(NR_SLAB_UNRECLAIMABLE_B),
		.vmalloc_pages = bench_pages(NR_VMALLOC),
		.table_pages = bench_pages(NR_IOMMU_PAGES),
	};
	u64 pages = usage.slab_pages + usage.vmalloc_pages + usage.table_pages;

	usage.most_pages = max(READ_ONCE(bench_most), pages);
	WRITE_ONCE(bench_most, usage.most_pages);
	return usage;
}

static enum hrtimer_restart bench_watch_tick(struct hrtimer *timer)
{
	bench_look();
	hrtimer_forward_now(timer, us_to_ktime(50));
	return HRTIMER_RESTART;
}

static int bench_usage(void __user *arg)
{
	struct iommufd_bench_usage usage = bench_look();

	return copy_to_user(arg, &usage, sizeof(usage)) ? -EFAULT : 0;
}

static long bench_access_ioctl(struct file *file, unsigned int cmd,
			       unsigned long arg)
{
	struct bench_access *bench = file->private_data;
	struct iommufd_bench_access op;

	switch (cmd) {
	case IOMMUFD_BENCH_ACCESS_USAGE:
		return bench_usage((void __user *)arg);
	case IOMMUFD_BENCH_ACCESS_WATCH:
		WRITE_ONCE(bench_most, 0);
		hrtimer_start(&bench_watch, us_to_ktime(50),
			      HRTIMER_MODE_REL_PINNED);
		return 0;
	case IOMMUFD_BENCH_ACCESS_UNWATCH:
		hrtimer_cancel(&bench_watch);
		return 0;
	}
	if (copy_from_user(&op, (void __user *)arg, sizeof(op)))
		return -EFAULT;
	if (cmd == IOMMUFD_BENCH_ACCESS_ATTACH)
		return bench_access_attach(file, op.iommufd, op.ioas_id);
	if (!bench || !op.length || op.length > IOMMUFD_BENCH_ACCESS_MAX)
		return -EINVAL;
	switch (cmd) {
	case IOMMUFD_BENCH_ACCESS_PIN:
		return iommufd_access_pin_pages(bench->access, op.iova,
						op.length, bench->pages,
						IOMMUFD_ACCESS_RW_WRITE);
	case IOMMUFD_BENCH_ACCESS_UNPIN:
		iommufd_access_unpin_pages(bench->access, op.iova, op.length);
		return 0;
	case IOMMUFD_BENCH_ACCESS_RW:
		return iommufd_access_rw(bench->access, op.iova, bench->buffer,
					 op.length,
					 op.write ? IOMMUFD_ACCESS_RW_WRITE :
						    IOMMUFD_ACCESS_RW_READ);
	default:
		return -ENOTTY;
	}
}

/* misc_open() leaves the device in private_data for those without an open. */
static int bench_access_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;
	return 0;
}

static int bench_access_release(struct inode *inode, struct file *file)
{
	struct bench_access *bench = file->private_data;

	if (bench)
		iommufd_access_destroy(bench->access);
	kvfree(bench);
	return 0;
}

static const struct file_operations bench_access_fops = {
	.owner = THIS_MODULE,
	.open = bench_access_open,
	.release = bench_access_release,
	.unlocked_ioctl = bench_access_ioctl,
};

static struct miscdevice bench_access_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = IOMMUFD_BENCH_ACCESS,
	.fops = &bench_access_fops,
};

static int __init bench_access_init(void)
{
	hrtimer_setup(&bench_watch, bench_watch_tick, CLOCK_MONOTONIC,
		      HRTIMER_MODE_REL_PINNED);
	return misc_register(&bench_access_misc);
}
module_init(bench_access_init);

static void __exit bench_access_exit(void)
{
	misc_deregister(&bench_access_misc);
	hrtimer_cancel(&bench_watch);
}
module_exit(bench_access_exit);

MODULE_DESCRIPTION("Pin and copy memory of an IOAS on request, to measure");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("IOMMUFD");
