//! Stops the process before or after an effect, as SIGKILL or SIGSTOP from outside would. For tests only: without the cargo feature
//! `failpoints` nothing of it is in the program.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, raise};

use super::Effect;

/// The variable: `<effect>:<before|after>[:<nth>[:<kill|freeze>]]`.
pub const VARIABLE: &str = "EVERCERT_FAILPOINT";

static ARMED: OnceLock<(Point, AtomicU32)> = OnceLock::new();

/// On which side of the effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing was sent.
    Before,
    /// The answer, whatever it says, is here and nobody has seen it.
    After,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Before, Self::After];
}

/// What becomes of the process there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stop {
    /// It ends.
    #[default]
    Kill,
    /// It stands still until SIGCONT, and goes on as if nothing had been.
    Freeze,
}

/// Where the process stops, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// At which effect.
    pub effect: Effect,
    /// On which side of it.
    pub side: Side,
    /// At the how manieth time, from 1.
    pub nth: u32,
    /// How.
    pub stop: Stop,
}

/// The variable's value names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{VARIABLE}={value:?} is no failpoint: write EFFECT:before or EFFECT:after, and :N for the Nth time, and :freeze to stand still \
     instead, with one of the effects {}",
    names()
)]
pub struct Unknown {
    value: String,
}

fn names() -> String {
    let names: Vec<&str> = Effect::ALL.iter().map(|e| e.name()).collect();
    names.join(", ")
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            effect,
            side,
            nth,
            stop,
        } = self;
        write!(f, "{effect}:{side}:{nth}:{stop}")
    }
}

impl FromStr for Point {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let unknown = || Unknown {
            value: text.to_owned(),
        };
        let mut parts = text.split(':');
        let effect = parts.next().unwrap_or_default();
        let effect = Effect::ALL.iter().find(|e| e.name() == effect);
        let side = match parts.next() {
            Some("before") => Some(Side::Before),
            Some("after") => Some(Side::After),
            Some(_) | None => None,
        };
        let nth = parts.next().map_or(Some(1), |n| n.parse().ok());
        let stop = match parts.next() {
            None | Some("kill") => Some(Stop::Kill),
            Some("freeze") => Some(Stop::Freeze),
            Some(_) => None,
        };
        match (effect, side, nth.filter(|n| *n > 0), stop, parts.next()) {
            (Some(effect), Some(side), Some(nth), Some(stop), None) => Ok(Self {
                effect: *effect,
                side,
                nth,
                stop,
            }),
            _ => Err(unknown()),
        }
    }
}

/// Reads the variable; without it nothing ever stops.
///
/// # Errors
/// [`Unknown`].
pub(crate) fn arm() -> Result<(), Unknown> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let point: Point = text.parse()?;
    tracing::warn!(%point, "this process will stop itself: a test asked for it");
    // A second start in one process keeps the first point.
    let _ = ARMED.set((point, AtomicU32::new(0)));
    Ok(())
}

/// Stops the process if this is the place.
pub(super) fn pass(effect: Effect, side: Side) {
    let Some((point, passed)) = ARMED.get() else {
        return;
    };
    if (point.effect, point.side) != (effect, side) {
        return;
    }
    if passed.fetch_add(1, Ordering::Relaxed) + 1 == point.nth {
        eprintln!("failpoint {point}: the process stops");
        match point.stop {
            Stop::Kill => {
                // Nothing runs after it: no destructor, no flush, no other thread.
                let _ = raise(Signal::SIGKILL);
                std::process::abort();
            }
            // All threads stand still, this one exactly here.
            Stop::Freeze => {
                let _ = raise(Signal::SIGSTOP);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_read_as_it_is_written() {
        for effect in Effect::ALL {
            for side in Side::ALL {
                for stop in [Stop::Kill, Stop::Freeze] {
                    let point = Point {
                        effect: *effect,
                        side,
                        nth: 3,
                        stop,
                    };
                    assert_eq!(point.to_string().parse(), Ok(point));
                }
            }
        }
        let first: Point = "new-order:after".parse().unwrap();
        assert_eq!((first.nth, first.stop), (1, Stop::Kill));
    }

    #[test]
    fn an_unknown_point_is_an_error_that_lists_the_effects() {
        for text in [
            "",
            "new-order",
            "new-order:amid",
            "order:after",
            "new-order:after:0",
            "new-order:after:1:1",
            "new-order:after:1:kill:1",
        ] {
            let told = text.parse::<Point>().unwrap_err().to_string();
            assert!(told.contains("new-order, record-order"), "{text}: {told}");
        }
    }
}
