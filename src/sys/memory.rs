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

// memcpy(3) and memmove(3): musl's start the processor's own loop for whatever comes, and copy what is left over a byte at
// a time; most copies of a start are strings of some ten bytes. Pieces from the front and up to the end overlap in the
// middle: no branch for each length. All of a short one is read before any of it is written, so that it may overlap; up to
// 2048 bytes go 64 at a time, as the processor's loop is the quicker one from there on only.
#[cfg(all(target_arch = "x86_64", target_env = "musl"))]
core::arch::global_asm!(
    ".globl memcpy, memmove",
    ".type memcpy, @function",
    ".type memmove, @function",
    "memmove:",
    "cmp rdx, 128",
    "jbe memcpy",
    "mov rax, rdi",
    "sub rax, rsi",
    "cmp rax, rdx",
    "jae memcpy",
    "mov rax, rdi",
    "mov rcx, rdx",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    "memcpy:",
    "mov rax, rdi",
    "cmp rdx, 16",
    "jb 3f",
    "cmp rdx, 128",
    "ja 6f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "cmp rdx, 32",
    "jbe 2f",
    "movups xmm2, [rsi + 16]",
    "movups xmm3, [rsi + rdx - 32]",
    "cmp rdx, 64",
    "jbe 8f",
    "movups xmm4, [rsi + 32]",
    "movups xmm5, [rsi + 48]",
    "movups xmm6, [rsi + rdx - 64]",
    "movups xmm7, [rsi + rdx - 48]",
    "movups [rdi + 32], xmm4",
    "movups [rdi + 48], xmm5",
    "movups [rdi + rdx - 64], xmm6",
    "movups [rdi + rdx - 48], xmm7",
    "8:",
    "movups [rdi + 16], xmm2",
    "movups [rdi + rdx - 32], xmm3",
    "2:",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "ret",
    "3:",
    "cmp edx, 8",
    "jb 4f",
    "mov rcx, [rsi]",
    "mov r8, [rsi + rdx - 8]",
    "mov [rdi], rcx",
    "mov [rdi + rdx - 8], r8",
    "ret",
    "4:",
    "cmp edx, 4",
    "jb 5f",
    "mov ecx, [rsi]",
    "mov r8d, [rsi + rdx - 4]",
    "mov [rdi], ecx",
    "mov [rdi + rdx - 4], r8d",
    "ret",
    "5:",
    "test edx, edx",
    "je 7f",
    "movzx ecx, byte ptr [rsi]",
    "movzx r8d, byte ptr [rsi + rdx - 1]",
    "mov r10, rdx",
    "shr r10",
    "movzx r9d, byte ptr [rsi + r10]",
    "mov [rdi], cl",
    "mov [rdi + r10], r9b",
    "mov [rdi + rdx - 1], r8b",
    "7:",
    "ret",
    "6:",
    "cmp rdx, 2048",
    "ja 9f",
    "movups xmm4, [rsi + rdx - 64]", // before it may be written over
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "lea r8, [rdi + rdx]",
    "lea rcx, [rdx - 1]",
    "and rcx, -64",
    "add rcx, rdi",
    "22:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "add rsi, 64",
    "add rdi, 64",
    "cmp rdi, rcx",
    "jb 22b",
    "movups [r8 - 64], xmm4",
    "movups [r8 - 48], xmm5",
    "movups [r8 - 32], xmm6",
    "movups [r8 - 16], xmm7",
    "ret",
    "9:",
    "mov r8, [rsi + rdx - 8]", // as above
    "mov rcx, rdx",
    "shr rcx, 3",
    "rep movsq",
    "mov [rax + rdx - 8], r8",
    "ret",
    ".size memcpy, . - memcpy",
    ".size memmove, memcpy - memmove",
);

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
    /// Nothing beside the copy is touched, whatever the length; and what overlaps is moved as if it did not.
    #[test]
    fn copies_are_whole_and_keep_to_their_place() {
        let from: Vec<u8> = (0..=250).cycle().take(2300).collect();
        for length in (0..300).chain([1000, 1024, 2047, 2048, 2049, 2055, 2056, 2057, 2200]) {
            for at in 0..3 {
                let mut to = vec![7_u8; 2210];
                to[at..at + length].copy_from_slice(&from[at..at + length]);
                assert!(
                    to[at..at + length] == from[at..at + length],
                    "{length} {at}"
                );
                let beside = |byte: &u8| *byte == 7;
                assert!(to[..at].iter().all(beside), "{length} {at}");
                assert!(to[at + length..].iter().all(beside), "{length} {at}");
            }
            for (source, target) in [(0, 3), (3, 0), (0, 20), (20, 0), (0, 90), (90, 0)] {
                let mut bytes = from.clone();
                bytes.copy_within(source..source + length, target);
                let moved: Vec<u8> = from[source..source + length].to_vec();
                assert!(bytes[target..target + length] == moved, "{length} {source}");
            }
        }
    }

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
