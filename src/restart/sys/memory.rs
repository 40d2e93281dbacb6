//! Memory that processes share by a descriptor.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

const WORD: usize = size_of::<AtomicU64>();

/// The largest that is mapped, in words: 64 MiB.
pub(crate) const MAX_WORDS: usize = (64 << 20) / WORD;

/// The size cannot change any more: what is mapped stays there.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// Shared memory, in words. Other processes may write to it at any time, so all that can be done with it is to load
/// and store whole words.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Invariant: the start of `words` words that are mapped for as long as this lives, and that no seal lets
    /// anybody take away (memfd_create(2)).
    start: NonNull<AtomicU64>,
    words: usize,
    /// Whether this process may store to it.
    writable: bool,
}

// SAFETY: it is a slice of atomics, which any thread may use; the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives no more than `&[AtomicU64]`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// New memory, all zeros, and the descriptor that stands for it, close-on-exec. `name` is for people
    /// (`/proc/PID/maps`).
    pub(crate) fn create(name: &CStr, words: usize) -> io::Result<(OwnedFd, Mapping)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(name, flags)?;
        let bytes = i64::try_from(words * WORD).map_err(|_| io::ErrorKind::InvalidInput)?;
        ftruncate(&fd, bytes)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals()))?;
        let mapping = Mapping::map(fd.as_fd(), words, true)?;
        Ok((fd, mapping))
    }

    /// The memory that a descriptor from elsewhere stands for, to be read. An error if it is none whose size is
    /// sealed, or if it is too large.
    pub(crate) fn open(fd: BorrowedFd<'_>) -> io::Result<Mapping> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let sealed = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| invalid("it is no shared memory"))?;
        if !SealFlag::from_bits_retain(sealed).contains(seals()) {
            return Err(invalid("its size may change"));
        }
        let bytes = usize::try_from(fstat(fd)?.st_size).unwrap_or(0);
        if bytes == 0 || !bytes.is_multiple_of(WORD) || bytes / WORD > MAX_WORDS {
            return Err(invalid("its size is not plausible"));
        }
        Mapping::map(fd, bytes / WORD, false)
    }

    fn map(fd: BorrowedFd<'_>, words: usize, writable: bool) -> io::Result<Mapping> {
        let length = NonZeroUsize::new(words * WORD).ok_or(io::ErrorKind::InvalidInput)?;
        let access = match writable {
            true => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            false => ProtFlags::PROT_READ,
        };
        // SAFETY: the kernel chooses a place that nothing else has; the file is as long as said and, being sealed,
        // stays so.
        let start = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Mapping { start: start.cast(), words, writable })
    }

    /// A word.
    pub(crate) fn load(&self, at: usize) -> Option<u64> {
        self.words().get(at).map(|word| word.load(Relaxed))
    }

    /// All of them, each as it is when it is looked at.
    pub(crate) fn snapshot(&self) -> Vec<u64> {
        self.words().iter().map(|word| word.load(Relaxed)).collect()
    }

    /// The words, if this process may store to them.
    pub(crate) fn writable(&self) -> Option<&[AtomicU64]> {
        self.writable.then(|| self.words())
    }

    /// Not for others: to store to what may only be read ends the process.
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: see `start`. A mapping begins at a page, so the words are aligned; all bit patterns are valid; and
        // what other processes do to them at the same time, they do to atomics.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is this value's own mapping, and no reference into it outlives the value.
        if let Err(errno) = unsafe { munmap(self.start.cast(), self.words * WORD) } {
            tracing::error!(%errno, "cannot unmap shared memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn two_see_the_same_words() {
        let (fd, ours) = Mapping::create(c"test", 100).unwrap();
        let theirs = Mapping::open(fd.as_fd()).unwrap();
        assert_eq!((ours.snapshot().len(), theirs.snapshot().len()), (100, 100));
        ours.writable().unwrap()[99].store(7, Relaxed);
        assert_eq!((theirs.load(99), theirs.load(100)), (Some(7), None));
        assert!(theirs.writable().is_none());
    }

    #[test]
    fn what_could_be_taken_away_is_not_mapped() {
        let open = |fd: OwnedFd| Mapping::open(fd.as_fd()).unwrap_err().to_string();
        let unsealed = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 800).unwrap();
        assert_eq!(open(unsealed), "its size may change");
        assert_eq!(open(File::open("/proc/self/exe").unwrap().into()), "it is no shared memory");
        assert_eq!(open(File::open("/dev/null").unwrap().into()), "it is no shared memory");
        let sealed = |bytes| {
            let fd = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
            ftruncate(&fd, bytes).unwrap();
            fcntl(&fd, FcntlArg::F_ADD_SEALS(seals())).unwrap();
            fd
        };
        for bytes in [0, 7, 801, (64 << 20) + 8] {
            assert_eq!(open(sealed(bytes)), "its size is not plausible", "{bytes} bytes");
        }
        assert!(Mapping::open(sealed(64 << 20).as_fd()).is_ok());
    }
}
