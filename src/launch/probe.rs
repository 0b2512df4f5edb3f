//! Asking an instance whether it is ready, from within.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::jail::instance::{Visitor, go_in, run_inside};
use crate::jail::{Ended, Setup, die_with_parent};

/// How often it is asked.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an instance may take to end.
const FAREWELL: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Probe {
    /// A GET answers 200; the token is shown where there is one.
    Http { path: String, port: u16, token: Option<String> },
    /// The port accepts a connection.
    Tcp { port: u16 },
    /// The program of the visitor exits with 0.
    Exec(Vec<String>),
}

/// In a process of its own: asks until the answer is good.
pub(super) fn ask(probe: &Probe, visitor: &Visitor, first: BorrowedFd<'_>) -> Setup<()> {
    if let Err(fault) = go_in(first, &visitor.cgroup) {
        if fault.errno == Some(libc::ESRCH) {
            // it is about to end, which takes a while: its keeper sees that, tells, and ends this process
            die_with_parent()?;
            std::thread::sleep(FAREWELL);
        }
        return Err(fault);
    }
    loop {
        let ready = match probe {
            Probe::Http { path, port, token } => {
                get(*port, path, token.as_deref()).is_ok_and(|ok| ok)
            }
            Probe::Tcp { port } => connect(*port).is_ok(),
            Probe::Exec(argv) => run(argv, visitor),
        };
        if ready {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn get(port: u16, path: &str, token: Option<&str>) -> std::io::Result<bool> {
    let mut stream = connect(port)?;
    let token =
        token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    // HTTP/1.x 200
    Ok(answer.starts_with(b"HTTP/1.") && answer.ends_with(b" 200"))
}

fn run(argv: &[String], visitor: &Visitor) -> bool {
    let mut visitor = visitor.clone();
    visitor.program.argv = argv.to_vec();
    let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") else {
        return false;
    };
    let ended = run_inside(&visitor, [null.as_fd(); 3], null.as_fd());
    matches!(ended, Ok(Ended::Code(0)))
}
