//! Which worlds go first where several fill the machine.

use std::fs;

use nix::unistd::setsid;

/// In the environment of the processes of a world that gives way.
const VARIABLE: &str = "EVERCERT_WORLD_PRIORITY";

/// How much of a busy machine a world gets.
///
/// By the kernel's autogroups (sched(7)), which share the processors among sessions; where there are none, or a session may not say
/// so, all are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// About three times as much as any other, for what has to happen within seconds. Only root may say so.
    High,
    /// As much as any other.
    #[default]
    Usual,
    /// About half of that while others want it, and all that they leave.
    Low,
}

impl Priority {
    /// The nice value of a session's group.
    fn nice(self) -> &'static str {
        match self {
            Self::High => "-5",
            Self::Usual => "0",
            Self::Low => "3",
        }
    }

    /// What [`Priority::variable`] says in the environment of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let said = std::env::var(VARIABLE).unwrap_or_default();
        let all = [Self::High, Self::Usual, Self::Low];
        let found = all.into_iter().find(|priority| priority.nice() == said);
        found.unwrap_or_default()
    }

    /// The variable that says it to a process and to those that it starts.
    #[must_use]
    pub fn variable(self) -> (&'static str, &'static str) {
        (VARIABLE, self.nice())
    }

    /// Makes this process the first of a session with this priority. A process that leads a group of processes stays where it is.
    pub fn begin_session(self) {
        let _ = setsid();
        // Everything works without it, only less evenly.
        let _ = fs::write("/proc/self/autogroup", self.nice());
    }
}
