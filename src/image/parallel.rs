//! The same work for several things at once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

/// Does `work` for each of `jobs`, by at most `threads` threads called `name`, the caller's among them. After a
/// failure nothing new is begun, but what is under way is finished.
///
/// # Errors
/// The first one of `work`.
pub fn each<J: Send>(
    name: &str,
    threads: usize,
    jobs: VecDeque<J>,
    work: impl Fn(&J) -> Result<()> + Sync,
) -> Result<()> {
    let threads = jobs.len().min(threads);
    let state: Mutex<(VecDeque<J>, Option<anyhow::Error>)> = Mutex::new((jobs, None));
    // A thread that panicked while it held the lock left nothing half done in these two.
    let locked = || state.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let all = || {
            loop {
                let job = {
                    let mut state = locked();
                    match &state.1 {
                        Some(_) => None,
                        None => state.0.pop_front(),
                    }
                };
                let Some(job) = job else {
                    return;
                };
                if let Err(error) = work(&job) {
                    locked().1.get_or_insert(error);
                }
            }
        };
        for _ in 1..threads {
            // Fewer threads are slower, and that is all.
            let _ = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn_scoped(scope, all);
        }
        all();
    });
    match locked().1.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
