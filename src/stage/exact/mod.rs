//! A start exactly as a `config.json` says: the same stage, without our defaults, and in two steps.
//!
//! ```text
//!  create (parent.rs)                               pid 1 of the container (init.rs)
//!     │ clone3, or a guide that joins by path ────────▶│ executes rl from a sealed mount
//!     │ Start(order) + the socket it will listen on ──▶│
//!     │ newuidmap ∥ newgidmap, or by itself            │
//!     │ Mapped ───────────────────────────────────────▶│ mounts, devices, masks
//!     │ Tree + fd, for each id-mapped mount ──────────▶│
//!     │◀──────────────────────────────── Console + fd  │ (with a terminal)
//!     │◀──────────────────────────────────────  Hooks  │
//!     │ prestart and createRuntime hooks               │
//!     │ HooksDone ────────────────────────────────────▶│ createContainer hooks, pivot_root, limits
//!     │◀────────────────────────────────────  Created  │
//!   ends                                               │ waits on its socket
//!                                                      │
//!  start ──── connects ───────────────────────────────▶│ startContainer hooks, confine
//!     │◀────────────────────── Listener + fd, Failed   │
//!     │◀── end of conversation: the program runs       ▼ execve
//! ```
//!
//! Pid 1 belongs to nobody between the two: it does not die with its parent, and `delete` ends it. Of a `run` that waits for the
//! program, it is tied to that command: Slurm ends jobs by SIGKILL, and nothing of them may stay.

pub mod devices;
pub mod hooks;
pub mod init;
pub mod join;
pub mod mounts;
pub mod parent;
