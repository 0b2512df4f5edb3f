//! The container that holds an instance's network, where something leads out of that.
//!
//! The engine starts a program at the moment it makes its network, and nothing must reach for what is
//! not laid yet. So the network is made with a container before: it has a program that waits for its end,
//! the way out is laid there, and the instance's own container joins it. The name server's address and
//! the host's name go with the network (`container:` knows neither). The program is written here, as no
//! image is sure to have one: a dozen instructions, which make one system call.

use std::os::fd::{AsFd, OwnedFd};

use serde_json::{Value, json};

use super::super::error::LaunchError;
use super::super::order::Order;
use super::super::state::Record;
use super::Engine;
use crate::fsx::IoAt;
use crate::jail::Setup;
use crate::jail::instance::{Gate, NEAR};

/// Where the program is in the container, and the file that it is among the instance's own.
const PROGRAM: &str = "/.sbx-hold";
const FILE: &str = "hold";

impl Engine {
    pub(super) fn holder(record: &Record) -> String {
        format!("{}-net", Self::container(record))
    }

    /// Answers its name.
    pub(super) fn create_holder(
        &self,
        order: &Order,
        labels: Value,
        image: &str,
    ) -> Result<String, LaunchError> {
        let file = order.dir.join(FILE);
        std::fs::write(&file, program()).at("write", &file)?;
        rustix::fs::chmod(&file, rustix::fs::Mode::from_raw_mode(0o555)).at("open", &file)?;
        let name = Self::holder(&order.record);
        let document = json!({
            "Image": image,
            "Entrypoint": [PROGRAM],
            "Cmd": [],
            "User": "65534:65534",
            "Hostname": order.record.name,
            "Labels": labels,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "NetworkMode": "none",
                "Dns": [NEAR],
                "DnsOptions": ["timeout:5", "attempts:2"],
                // none of this machine's
                "DnsSearch": ["."],
                "Binds": [format!("{}:{PROGRAM}:ro", file.display())],
                "ReadonlyRootfs": true,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "LogConfig": {"Type": "none", "Config": {}},
            },
        });
        self.create_container(&name, document, &order.record)?;
        Ok(name)
    }

    /// Starts it and lays the way out of its network, whose sockets are handed over.
    pub(super) fn hold(&self, order: &Order, gate: &Gate, over: &OwnedFd) -> Setup<()> {
        let holder = self.begin(&Self::holder(&order.record), PROGRAM)?;
        gate.open_beside(holder.handle.as_fd(), over.as_fd())
    }
}

/// An executable file that waits for ever.
fn program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u16 = 64 + 56;
    let size = u64::from(HEADERS) + CODE.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2, MACHINE] {
        file.extend(u16::to_le_bytes(half));
    }
    file.extend(1u32.to_le_bytes());
    for address in [BASE + u64::from(HEADERS), 64, 0] {
        file.extend(address.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64, 56, 1, 64, 0, 0] {
        file.extend(u16::to_le_bytes(half));
    }
    // its one segment: all of the file, read and executed
    for word in [1u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for number in [0, BASE, BASE, size, size, 0x1_0000] {
        file.extend(number.to_le_bytes());
    }
    file.extend(CODE);
    file
}

/// `pause` again and again.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;

/// `ppoll` of nothing, for ever, again and again: this machine has no `pause`.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2,
    0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xfa, 0xff, 0xff, 0x17,
];
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
