//! Large memory straight from the system, so that what is released goes back to it: an allocator would keep the pieces,
//! and values of one size do not fit where those of another were.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod system {
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        pub(super) fn mmap(
            at: *mut c_void,
            size: usize,
            protect: c_int,
            flags: c_int,
            fd: c_int,
            from: i64,
        ) -> *mut c_void;
        pub(super) fn munmap(start: *mut c_void, size: usize) -> c_int;
        pub(super) fn madvise(start: *mut c_void, size: usize, advice: c_int) -> c_int;
    }

    pub(super) const READ_WRITE: c_int = 3;
    /// Private and of no file.
    pub(super) const ANONYMOUS: c_int = 0x22;
    pub(super) const MADV_HUGEPAGE: c_int = 14;
    /// A multiple of the page sizes of x86-64 and AArch64.
    pub(super) const PAGE: usize = 1 << 16;
}

/// Zeroed memory of `layout`, whose alignment is that of a huge page.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn map(layout: Layout) -> NonNull<u8> {
    use system::*;
    let (align, size) = (layout.align(), layout.size().next_multiple_of(PAGE));
    let Some(whole) = size.checked_add(align) else { handle_alloc_error(layout) };
    // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
    let start = unsafe { mmap(std::ptr::null_mut(), whole, READ_WRITE, ANONYMOUS, -1, 0) };
    if start.addr() == usize::MAX {
        handle_alloc_error(layout)
    }
    let before = start.addr().next_multiple_of(align) - start.addr();
    let aligned = start.wrapping_byte_add(before);
    // SAFETY: both ends lie in the new mapping beside the aligned range, in whole pages; advice changes no contents, and its
    // failure changes nothing at all.
    unsafe {
        if before > 0 {
            munmap(start, before);
        }
        munmap(aligned.wrapping_byte_add(size), align - before);
        madvise(aligned, size & !(align - 1), MADV_HUGEPAGE);
    }
    NonNull::new(aligned.cast()).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Gives back what [`map`] gave.
///
/// # Safety
/// `start` comes from [`map`] with this layout, and nobody uses the memory any more.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) unsafe fn unmap(start: NonNull<u8>, layout: Layout) {
    // SAFETY: by the contract of this function.
    unsafe { system::munmap(start.as_ptr().cast(), layout.size().next_multiple_of(system::PAGE)) };
}

/// Elsewhere the allocator serves all sizes.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(super) fn map(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout of a huge page is empty.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Gives back what [`map`] gave.
///
/// # Safety
/// As above.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub(super) unsafe fn unmap(start: NonNull<u8>, layout: Layout) {
    // SAFETY: by the contract of this function.
    unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
}
