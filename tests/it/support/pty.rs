//! A program in a real pseudo terminal, driven as a person would.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::termios::{LocalModes, Winsize};

use super::{Run, wait_for};

/// The terminal's side of a program.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    /// Held open, so that the terminal's settings can be looked at after the program's end.
    slave: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Run {
    /// Starts it as the foreground program of a new terminal of 24 rows and 80 columns.
    pub fn in_terminal(self) -> Terminal {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (master, slave) = (File::from(pty.master), File::from(pty.slave));
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&master, size).unwrap();
        let inner = self.command();
        // `setsid --ctty` becomes the program: the same pid, a session and a controlling terminal of its own.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(inner.get_program())
            .args(inner.get_args());
        command.env_clear();
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(directory) = inner.get_current_dir() {
            command.current_dir(directory);
        }
        let end = || Stdio::from(slave.try_clone().unwrap());
        command
            .env("TERM", "xterm")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let child = command.spawn().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&screen);
        let mut from = master.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Terminal {
            child,
            master,
            slave,
            screen,
        }
    }
}

impl Terminal {
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !self.screen().contains(text) {
            assert!(
                std::time::Instant::now() < deadline,
                "waited 20 s for `{text}` on the screen, which has:\n{}",
                self.screen()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Whether the terminal gives every key to the program at once.
    pub fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(self.slave.as_fd())
            .unwrap()
            .local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a pid"));
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the program in the terminal to end", || {
            self.child.try_wait().unwrap()
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already, in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
