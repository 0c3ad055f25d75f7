// SPDX-License-Identifier: GPL-2.0

//! A table of values by cookie, a number by which user space refers to a value later.
//!
//! A cookie is the lowest free number above 0, as in C, so the table stays dense. Memory is
//! reserved in advance: storing and removing do not fail.
#![forbid(unsafe_code)]

use kernel::{
    id_pool::IdPool,
    prelude::*, //
};

/// The capacity that an empty table keeps, in values.
const KEEP: usize = 64;

/// Values by cookie.
///
/// # Invariants
///
/// - A number is in use in `ids` if and only if `slots` has a value at that index. 0 is not.
/// - `len` is the number of values.
pub(super) struct Cookies<T> {
    ids: IdPool,
    slots: KVVec<Option<T>>,
    len: usize,
}

/// A free cookie, with reserved memory for a value.
pub(super) struct Vacancy<'a, T> {
    cookies: &'a mut Cookies<T>,
    cookie: usize,
}

impl<T> Vacancy<'_, T> {
    /// Returns the cookie that the value will have.
    pub(super) fn cookie(&self) -> u32 {
        // CAST: `IdPool` has less than 2^31 numbers.
        self.cookie as u32
    }

    /// Stores a value.
    pub(super) fn fill(self, value: T) {
        let Self { cookies, cookie } = self;
        // Both exist since `reserve()`, as the table has been borrowed since then.
        if let (Some(id), Some(slot)) = (
            cookies.ids.find_unused_id(cookie),
            cookies.slots.get_mut(cookie),
        ) {
            id.acquire();
            *slot = Some(value);
            cookies.len += 1;
        }
    }
}

impl<T> Cookies<T> {
    /// Creates an empty table.
    pub(super) fn new() -> Self {
        Self {
            ids: IdPool::new(),
            slots: KVVec::new(),
            len: 0,
        }
    }

    /// Reserves a cookie and memory for a value.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`]; [`EBUSY`] if there are no more numbers.
    pub(super) fn reserve(&mut self) -> Result<Vacancy<'_, T>> {
        if self.ids.find_unused_id(1).is_none() {
            let more = self.ids.grow_request().ok_or(EBUSY)?;
            let more = more.realloc(GFP_KERNEL)?;
            self.ids.grow(more);
        }
        let cookie = self.ids.find_unused_id(1).ok_or(EBUSY)?.as_usize();
        // The lowest free number is at most one above the greatest one that was in use.
        while self.slots.len() <= cookie {
            self.slots.push(None, GFP_KERNEL)?;
        }
        Ok(Vacancy {
            cookies: self,
            cookie,
        })
    }

    /// Returns the value of a cookie.
    pub(super) fn get(&self, cookie: u32) -> Option<&T> {
        // CAST: A `usize` has at least 32 bits.
        self.slots.get(cookie as usize)?.as_ref()
    }

    /// Removes and returns the value of a cookie.
    pub(super) fn remove(&mut self, cookie: u32) -> Option<T> {
        // CAST: A `usize` has at least 32 bits.
        let cookie = cookie as usize;
        let value = self.slots.get_mut(cookie)?.take()?;
        self.ids.release_id(cookie);
        self.len -= 1;
        if self.len == 0 && self.slots.len() > KEEP {
            // Free the memory of a burst.
            *self = Self::new();
        }
        Some(value)
    }

    /// Removes all values for which `which` holds, and passes them to `f`.
    pub(super) fn remove_if(&mut self, which: impl Fn(&T) -> bool, mut f: impl FnMut(T)) {
        let mut cookie = 0;
        // The table can shrink in this loop.
        while let Some(slot) = self.slots.get(cookie) {
            if slot.as_ref().is_some_and(&which) {
                // CAST: `IdPool` has less than 2^31 numbers.
                self.remove(cookie as u32).map(&mut f);
            }
            cookie += 1;
        }
    }
}

#[cfg(CONFIG_IOMMUFD_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(iommufd_cookies)]
mod tests {
    use super::*;

    /// Returns the next pseudo-random number.
    fn next(state: &mut u32) -> u32 {
        *state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        *state >> 8
    }

    /// Returns the lowest free number of the model.
    fn lowest_free(model: &KVVec<Option<u32>>) -> usize {
        (1..)
            .find(|&n| model.get(n).is_none_or(|slot| slot.is_none()))
            .unwrap_or(0)
    }

    #[test]
    fn first_is_one() -> Result {
        let mut cookies = Cookies::new();
        let vacancy = cookies.reserve()?;
        assert_eq!(vacancy.cookie(), 1);
        vacancy.fill('a');
        // A vacancy that is dropped leaves its number free.
        assert_eq!(cookies.reserve()?.cookie(), 2);
        assert_eq!(cookies.reserve()?.cookie(), 2);
        assert_eq!(cookies.remove(0), None);
        assert_eq!(cookies.remove(2), None);
        assert_eq!(cookies.remove(u32::MAX), None);
        assert_eq!(cookies.remove(1), Some('a'));
        assert_eq!(cookies.remove(1), None);
        Ok(())
    }

    #[test]
    fn as_a_plain_table() -> Result {
        let mut cookies = Cookies::new();
        let mut model: KVVec<Option<u32>> = KVVec::new();
        let mut state = 1;

        for step in 0..4000u32 {
            // First mostly insertions, to more than one word of the bitmap, then mostly removals.
            let grow = next(&mut state) % 8 < if step < 2000 { 6 } else { 2 };
            if grow {
                let vacancy = cookies.reserve()?;
                let cookie = vacancy.cookie() as usize;
                assert_eq!(cookie, lowest_free(&model));
                vacancy.fill(step);
                while model.len() <= cookie {
                    model.push(None, GFP_KERNEL)?;
                }
                model[cookie] = Some(step);
            } else {
                let cookie = next(&mut state) as usize % (model.len() + 2);
                let expected = model.get_mut(cookie).and_then(Option::take);
                assert_eq!(cookies.remove(cookie as u32), expected);
            }
        }

        // All even values, each once.
        let mut removed = 0;
        cookies.remove_if(|value| value % 2 == 0, |value| removed += u64::from(value));
        let mut expected = 0;
        for slot in model.iter_mut() {
            if let Some(value) = slot.take_if(|value| *value % 2 == 0) {
                expected += u64::from(value);
            }
        }
        assert_eq!(removed, expected);
        for (cookie, slot) in model.iter().enumerate() {
            assert_eq!(cookies.remove(cookie as u32), *slot);
        }
        Ok(())
    }
}
