//! Where the memory of `rl` comes from: dlmalloc behind a lock of one word.
//!
//! musl's own gives what is freed back to the kernel at every turn, and dlmalloc's own lock is two calls into it.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dlmalloc::Dlmalloc;

/// All of it, of all threads.
#[derive(Debug)]
pub struct Memory;

static HEAP: Mutex<Dlmalloc> = Mutex::new(Dlmalloc::new());

/// The lock allocates nothing, for it is a futex. A child of a program with threads never asks for memory (house rule).
fn heap() -> MutexGuard<'static, Dlmalloc> {
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

// SAFETY: dlmalloc keeps the contract of `GlobalAlloc` for who asks for one thing at a time, which the lock sees to; nothing in
// it panics or allocates by way of this.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { heap().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { heap().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { heap().free(memory, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { heap().realloc(memory, layout.size(), layout.align(), size) }
    }
}

/// memcmp(3), eight bytes at a time: musl's takes one, and the names of flags and fields are compared all the time.
///
/// # Safety
/// `length` bytes of both can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    let mut at = 0;
    while at + 8 <= length {
        // SAFETY: the eight bytes lie within both.
        let word =
            |start: *const u8| unsafe { start.wrapping_add(at).cast::<u64>().read_unaligned() };
        let (one, other) = (u64::from_be(word(a)), u64::from_be(word(b)));
        if one != other {
            return if one < other { -1 } else { 1 };
        }
        at += 8;
    }
    while at < length {
        // SAFETY: the byte lies within both.
        let byte = |start: *const u8| i32::from(unsafe { start.wrapping_add(at).read() });
        if byte(a) != byte(b) {
            return byte(a) - byte(b);
        }
        at += 1;
    }
    0
}

/// [`memcmp`] for who asks only whether they are the same.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, length: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, length) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn slices_are_compared_as_their_bytes_are() {
        let words: Vec<Vec<u8>> = (0..40_usize)
            .flat_map(|length| (0..=length).map(move |at| (length, at)))
            .map(|(length, at)| {
                (0..length)
                    .map(|n| if n == at { 200 } else { 100 })
                    .collect()
            })
            .collect();
        for a in &words {
            for b in &words {
                let expected = a.iter().cmp(b.iter());
                assert_eq!(a.as_slice().cmp(b), expected, "{a:?} {b:?}");
                assert_eq!(a.as_slice() == b.as_slice(), expected.is_eq());
            }
        }
    }
}
