//! What the safe crates do not offer: all `unsafe` of the project, each with its reason.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::SigSet;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod memory;

use super::error::Error;
pub(crate) use memory::{MAX_WORDS, Mapping};

nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);

/// How many bytes have arrived on a socket that nobody has read.
pub(crate) fn unread_bytes(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the borrow, and FIONREAD writes one int to where
    // `count` lives (ioctl_tty(2), tcp(7), unix(7)).
    unsafe { fionread(socket.as_raw_fd(), &raw mut count) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Makes the kernel drop every packet to a TCP socket whose time to live is below `least` (`IP_MINTTL`, ip(7);
/// `IPV6_MINHOPCOUNT`). A listening socket demands it of a SYN, and hands the demand on to what it accepts
/// later; the rest of a handshake that has begun passes. A packet filter would be more exact, but later kernels
/// want CAP_NET_ADMIN for one (seen with 6.18).
pub(crate) fn set_min_ttl(socket: BorrowedFd<'_>, is_ipv6: bool, least: u8) -> io::Result<()> {
    let (level, option) = match is_ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
        false => (libc::IPPROTO_IP, libc::IP_MINTTL),
    };
    let least = libc::c_int::from(least);
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the borrow, and the value is an int that lives here.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const least).cast(), length) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Takes the descriptors from 3 up into ownership, `count` of them, close-on-exec from now on.
///
/// They are those that `LISTEN_FDS` names, given by the parent to this process alone (sd_listen_fds(3)).
/// An error on the second call, when the numbers could mean anything, and if one of them is not open.
pub(crate) fn adopt_inherited(count: RawFd) -> io::Result<Vec<OwnedFd>> {
    /// Whether the descriptors have found their owner: it must not be two.
    static ADOPTED: AtomicBool = AtomicBool::new(false);
    const FIRST: RawFd = 3;

    if ADOPTED.swap(true, Ordering::Relaxed) {
        return Err(io::Error::other("the inherited descriptors were taken before"));
    }
    let adopt = |fd| {
        // SAFETY: fcntl on a number that is not open fails with EBADF and does nothing else.
        Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        // SAFETY: it is open, as the call above has shown; it is this process's by the protocol, and no
        // other part of it has taken it, as the flag shows.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    (FIRST..FIRST + count).map(adopt).collect()
}

/// Lets the runtime tell when a descriptor is readable.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, and the AsyncFd keeps it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// A copy of a descriptor whose number is at least `lowest`, close-on-exec.
pub(crate) fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The number of threads of this process.
fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Removes variables from the environment, and from what `/proc/PID/environ` shows of it; an error if any
/// other thread could be reading them.
pub(crate) fn remove_variables(names: &[&CStr]) -> Result<(), Error> {
    let threads = threads().map_err(Error::system("read /proc/self/task"))?;
    if threads != 1 {
        return Err(Error::NotSingleThreaded { threads });
    }
    for name in names {
        // SAFETY: this is the only thread, so nobody reads or writes the environment meanwhile. getenv
        // returns a pointer to a text that ends with NUL, in memory of the process's own that is writable;
        // the name and the equals sign stand before it (environ(7)), and unsetenv takes them away together.
        unsafe {
            let value = libc::getenv(name.as_ptr());
            if !value.is_null() {
                let entry = value.sub(name.count_bytes() + 1);
                let length = name.count_bytes() + 1 + libc::strlen(value);
                libc::unsetenv(name.as_ptr());
                ptr::write_bytes(entry, 0, length);
            }
        }
    }
    Ok(())
}

/// What a child does between its birth and `execve`, all prepared by the parent.
pub(crate) struct Exec<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) argv: &'a [CString],
    pub(crate) envp: &'a [CString],
    /// The place in `envp` of `LISTEN_PID=` and ten blanks for the digits.
    pub(crate) listen_pid: usize,
    pub(crate) directory: &'a CStr,
    /// Descriptors that become 3, 4, … in the child. Invariant: each is at least `3 + fds.len()`, as are the
    /// two below, so that none is overwritten before it is copied.
    pub(crate) fds: &'a [BorrowedFd<'a>],
    pub(crate) stderr: BorrowedFd<'a>,
    /// The signals that the program begins with held back, whatever this process does with them.
    pub(crate) held: SigSet,
    /// Where the errno goes if `execve` fails; close-on-exec, so that end-of-file means success.
    pub(crate) failed: BorrowedFd<'a>,
}

/// A new process.
pub(crate) struct NewProcess {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

/// The text of the environment's entry that [`spawn_sibling`] completes.
pub(crate) const LISTEN_PID_BLANK: &str = "LISTEN_PID=          ";
const LISTEN_PID_DIGITS: usize = 10;

/// Makes a new process, the child of this one's parent, that executes a program.
///
/// A sibling (`CLONE_PARENT`), because a service manager accepts only its own children as main process;
/// the pidfd tells of its death. Fails with EINVAL for the init of a PID namespace, which can have no
/// sibling (clone(2)).
pub(crate) fn spawn_sibling(exec: &Exec<'_>) -> io::Result<NewProcess> {
    fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    }
    let argv = pointers(exec.argv);
    let mut envp = pointers(exec.envp);
    let mut listen_pid = [0_u8; LISTEN_PID_BLANK.len() + 1];
    listen_pid[..LISTEN_PID_BLANK.len()].copy_from_slice(LISTEN_PID_BLANK.as_bytes());
    if let Some(entry) = envp.get_mut(exec.listen_pid) {
        *entry = listen_pid.as_ptr().cast();
    }

    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is a plain structure for which all zeros is valid.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = (&raw mut pidfd) as u64;

    // No handler of this process may run in the child: it would write to descriptors that both share. So
    // every signal is held back until the child has executed, or has given its handlers up.
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are written before they are read, by the calls that initialise them.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    // SAFETY: without CLONE_VM the child has a copy of this memory, as after fork(2), and one thread. The
    // structure is valid and as long as said. The child runs `child` alone, which calls only
    // async-signal-safe functions and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        // SAFETY: this is the child; all pointers lead into its copy of what the parent prepared.
        unsafe { child(exec, &argv, &envp, &mut listen_pid) };
    }
    let error = io::Error::last_os_error();
    // SAFETY: `before` was written by the first call of pthread_sigmask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    if pid < 0 {
        return Err(error);
    }
    // SAFETY: the kernel has stored a new descriptor, close-on-exec, that nobody else knows (clone(2)).
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(NewProcess { pid: pid as i32, pidfd })
}

/// Not in every libc crate: resets every handled signal to its default in the child (clone3(2), Linux 5.5).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// The child's way to `execve`: no allocation, no lock, no panic, only system calls.
///
/// # Safety
/// Must run in a process that has just been made by clone3 without `CLONE_VM`; `argv` and `envp` must end
/// with a null pointer, and every string must end with NUL.
unsafe fn child(
    exec: &Exec<'_>,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    listen_pid: &mut [u8; LISTEN_PID_BLANK.len() + 1],
) -> ! {
    // SAFETY: each call is async-signal-safe (signal-safety(7)) and gets descriptors and strings that live
    // in this process's copy of the parent's memory.
    unsafe {
        // A filter of the parent's, not of the new program's: the standard library ignores SIGPIPE.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);

        let mut number = 3;
        for fd in exec.fds {
            // dup3 leaves close-on-exec off: here, and nowhere else, descriptors become inheritable.
            if libc::dup3(fd.as_raw_fd(), number, 0) < 0 {
                fail(exec.failed);
            }
            number += 1;
        }
        if libc::dup3(exec.stderr.as_raw_fd(), 2, 0) < 0 {
            fail(exec.failed);
        }
        // Whatever a library may have opened without the flag stays behind.
        libc::syscall(libc::SYS_close_range, number, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);

        // If the directory is gone, the new program gets by without it, as this one does.
        libc::chdir(exec.directory.as_ptr());

        let mut pid = libc::getpid() as u32;
        let start = listen_pid.len() - 1 - LISTEN_PID_DIGITS;
        let mut digits = [0_u8; LISTEN_PID_DIGITS];
        let mut count = 0;
        while pid > 0 && count < LISTEN_PID_DIGITS {
            digits[count] = b'0' + (pid % 10) as u8;
            pid /= 10;
            count += 1;
        }
        let mut i = 0;
        while i < count {
            listen_pid[start + i] = digits[count - 1 - i];
            i += 1;
        }
        listen_pid[start + count] = 0;

        let held: *const libc::sigset_t = exec.held.as_ref();
        libc::pthread_sigmask(libc::SIG_SETMASK, held, ptr::null_mut());

        libc::execve(exec.program.as_ptr(), argv.as_ptr(), envp.as_ptr());
        fail(exec.failed)
    }
}

/// Tells the parent the errno and ends the child.
///
/// # Safety
/// As for [`child`].
unsafe fn fail(failed: BorrowedFd<'_>) -> ! {
    // SAFETY: write(2) of four bytes from this frame, then _exit(2); both are async-signal-safe.
    unsafe {
        let errno = (*libc::__errno_location()).to_ne_bytes();
        libc::write(failed.as_raw_fd(), errno.as_ptr().cast(), errno.len());
        libc::_exit(127)
    }
}

/// The exit status of a process that is not our child, in the form of wait(2); `None` until it has been
/// reaped. An error if this kernel does not tell (`PIDFD_GET_INFO`, Linux 6.15).
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    /// The kernel's `struct pidfd_info` in its first published size (linux/pidfd.h).
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroupid: u64,
        pid: u32,
        tgid: u32,
        ppid: u32,
        ids: [u32; 8],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    const PIDFS_IOCTL_MAGIC: u8 = 0xFF;
    nix::ioctl_readwrite!(pidfd_get_info, PIDFS_IOCTL_MAGIC, 11, PidfdInfo);
    const _: () = assert!(size_of::<PidfdInfo>() == 64);

    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..Default::default() };
    // SAFETY: the size of the structure is part of the request's number, so the kernel writes no more.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut info) }?;
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

/// Kills a process by its pidfd, which cannot mean another (pidfd_send_signal(2)).
pub(crate) fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a plain system call on an open descriptor, without a siginfo.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// A packet that [`receive`] took from a socket.
pub(crate) struct Received {
    pub(crate) length: usize,
    /// Close-on-exec.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Whether the packet, or the list of its descriptors, was longer than there was room for.
    pub(crate) truncated: bool,
}

/// Receives one packet and the descriptors that come with it, at most about `most` of them (unix(7)).
///
/// Not with nix: where the list is cut short, it keeps from us what did come, which would stay open for ever.
pub(crate) fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], most: usize) -> io::Result<Received> {
    // Of u64, so that the headers in it are aligned.
    let mut control = vec![0_u64; cmsg_space_of_descriptors(most).div_ceil(size_of::<u64>())];
    let mut slice = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is a plain structure for which all zeros is valid.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &raw mut slice;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&*control);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header leads to two buffers that live, as long as it says, until this function ends.
    let length = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) })?;

    let mut descriptors = Vec::new();
    // SAFETY: recvmsg has left in the header how much of the control buffer it filled, and the CMSG macros
    // stay within that (cmsg(3)). The kernel has made these descriptors for this process with this very
    // call, so nobody else knows their numbers.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(head) = part.as_ref() {
            if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let count = (head.cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let numbers = libc::CMSG_DATA(part).cast::<RawFd>();
                let owned = (0..count).map(|i| OwnedFd::from_raw_fd(numbers.add(i).read_unaligned()));
                descriptors.extend(owned);
            }
            part = libc::CMSG_NXTHDR(&raw const header, part);
        }
    }
    let truncated = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok(Received { length: length.cast_unsigned(), descriptors, truncated })
}

fn cmsg_space_of_descriptors(count: usize) -> usize {
    let bytes = count * size_of::<RawFd>();
    // SAFETY: CMSG_SPACE is arithmetic on its argument (cmsg(3)).
    unsafe { libc::CMSG_SPACE(bytes as libc::c_uint) as usize }
}

/// A descriptor that stands for this process.
pub(crate) fn pidfd_of_self() -> io::Result<OwnedFd> {
    pidfd_of(std::process::id())
}

/// A descriptor that stands for the process which has this pid now.
pub(crate) fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the kernel returns a new descriptor, close-on-exec (pidfd_open(2)).
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: nobody else knows the number yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
