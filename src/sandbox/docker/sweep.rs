//! Which containers found at the daemon are to be removed.

use super::request::{ENGINE, RUN};
use crate::sandbox::owner::{Owner, Process};
use std::collections::HashMap;

/// Whether a container with these labels may go when `run` is swept by the engine `here`.
///
/// Of `run`: what is ours, what is a dead engine's, and what no one here can judge (another boot or host: the lock on the
/// run directory says that no other engine works on this run). Of other runs: only what is known to be a dead engine's.
#[must_use]
pub fn may_go(labels: &HashMap<String, String>, run: &str, here: &Owner, look: impl Fn(i32) -> Process) -> bool {
    let same_run = labels.get(RUN).is_some_and(|name| name == run);
    match labels.get(ENGINE).and_then(|label| label.parse::<Owner>().ok()) {
        Some(owner) if same_run && (owner == *here || !owner.is_near(here)) => true,
        Some(owner) => owner.is_dead(here, look),
        None => same_run,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(run: &str, engine: &str, pid_is: Process) -> bool {
        let labels = HashMap::from([(RUN.to_owned(), run.to_owned()), (ENGINE.to_owned(), engine.to_owned())]);
        may_go(&labels, "mine", &"boot/1/10/100".parse().unwrap(), |_| pid_is)
    }

    #[test]
    fn a_live_engine_keeps_what_it_has() {
        assert!(!goes("other", "boot/1/11/110", Process::StartedAt(110)));
        assert!(!goes("mine", "boot/1/11/110", Process::StartedAt(110)));
        assert!(!goes("other", "boot/1/10/100", Process::StartedAt(100)), "this engine's other run");
    }

    #[test]
    fn our_own_and_the_dead_go() {
        assert!(goes("mine", "boot/1/10/100", Process::StartedAt(100)));
        assert!(goes("mine", "boot/1/11/110", Process::Gone));
        assert!(goes("other", "boot/1/11/110", Process::Gone));
        assert!(goes("other", "boot/1/11/110", Process::StartedAt(7)));
    }

    #[test]
    fn what_cannot_be_judged_goes_only_with_its_own_run() {
        for elsewhere in ["reboot/1/11/110", "boot/2/11/110", "gibberish"] {
            assert!(goes("mine", elsewhere, Process::Gone), "{elsewhere}");
            assert!(!goes("other", elsewhere, Process::Gone), "{elsewhere}");
        }
    }
}
