//! The sandbox's network: a loopback interface, and nothing else.

use super::child::{Setup, Step};

/// Brings the loopback interface up (netdevice(7)).
pub(super) fn raise_loopback() -> Setup<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .step("open a socket")?;
    // SAFETY: an all-zero ifreq is valid; it is given the name and the flags of one interface
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *slot = (*byte) as libc::c_char;
    }
    // the flags fit a short by definition
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the descriptor is open and the request outlives the call
    match unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).step("raise the loopback interface"),
    }
}
