//! What each user does, and when: drawn from the seed, so that the same seed gives the same plan whatever the proxy does.
//!
//! A user is a connection of one kind of traffic, or a stream on it.

use std::time::Duration;

use fastrand::Rng;

use crate::scenario::{Kind, Traffic};

/// One exchange to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When it is to begin, since the run began: open loop. Otherwise it begins `pause` after the one before ended.
    pub due: Option<Duration>,
    /// See above.
    pub pause: Duration,
    /// From which the bytes of the body or message are drawn.
    pub seed: u64,
    /// How many they are.
    pub bytes: usize,
}

/// All that one user does: an endless iterator.
#[derive(Clone, Debug)]
pub struct Plan {
    rng: Rng,
    pause: (Duration, Duration),
    bytes: (usize, usize),
    /// The mean time between two exchanges in open loop.
    gap: Option<Gap>,
    next: Duration,
    /// Slow exchanges do not all begin at once.
    first_pause: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Gap {
    /// Exponential around a mean, so that all users together make a Poisson process: arrivals that know nothing of
    /// each other.
    Exponential(Duration),
    /// Between the bounds of the pause.
    Uniform,
}

impl Plan {
    /// The plan of a user: `traffic` is the `kind`th of the scenario, `user` counts from 0 to its [`Traffic::users`].
    #[must_use]
    pub fn new(seed: u64, kind: usize, traffic: &Traffic, user: usize) -> Plan {
        // Neighbouring seeds give neighbouring first numbers: the parts are mixed by drawing between them.
        let mut rng = Rng::with_seed(seed);
        for part in [kind as u64, user as u64] {
            rng = Rng::with_seed(rng.u64(..) ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        let users = f64::from(u32::try_from(traffic.users()).unwrap_or(u32::MAX));
        let gap = if traffic.kind == Kind::Idle {
            Some(Gap::Uniform)
        } else if traffic.rate > 0.0 {
            Some(Gap::Exponential(Duration::from_secs_f64(users / traffic.rate)))
        } else {
            None
        };
        let next = match gap {
            Some(Gap::Uniform) => traffic.pause.1.mul_f64(rng.f64()),
            Some(Gap::Exponential(mean)) => exponential(&mut rng, mean),
            None => Duration::ZERO,
        };
        let first_pause = gap.is_none().then(|| traffic.lasts.mul_f64(rng.f64()));
        Plan { rng, pause: traffic.pause, bytes: traffic.bytes, gap, next, first_pause }
    }

    fn pause(&mut self) -> Duration {
        let (low, high) = self.pause;
        low + (high - low).mul_f64(self.rng.f64())
    }
}

impl Iterator for Plan {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let due = self.gap.map(|gap| {
            let then = match gap {
                Gap::Exponential(mean) => exponential(&mut self.rng, mean),
                Gap::Uniform => self.pause(),
            };
            let due = self.next;
            self.next += then;
            due
        });
        let pause = if due.is_some() {
            Duration::ZERO
        } else {
            self.first_pause.take().unwrap_or_else(|| self.pause())
        };
        Some(Step { due, pause, seed: self.rng.u64(..), bytes: self.rng.usize(self.bytes.0..=self.bytes.1) })
    }
}

fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    // 1 - f64() is above 0; the logarithm of the smallest is about -37.
    mean.mul_f64(-(1.0 - rng.f64()).ln())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by a panic")]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn traffic(text: &str) -> Traffic {
        Scenario::parse(&format!("[[traffic]]\n{text}")).unwrap().traffic.remove(0)
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_others_give_others() {
        let traffic = traffic("kind = \"http1\"\nrate = 100");
        let steps = |seed, kind, user| Plan::new(seed, kind, &traffic, user).take(100).collect::<Vec<_>>();
        assert_eq!(steps(7, 0, 0), steps(7, 0, 0));
        for other in [steps(8, 0, 0), steps(7, 1, 0), steps(7, 0, 1)] {
            assert_ne!(steps(7, 0, 0), other);
        }
    }

    #[test]
    fn open_loop_comes_at_its_rate_whatever_the_answers_do() {
        let traffic = traffic("kind = \"http1\"\nconnections = 20\nrate = 500");
        let count: usize = (0..20)
            .map(|user| {
                Plan::new(1, 0, &traffic, user)
                    .take_while(|step| step.due.unwrap() < Duration::from_secs(60))
                    .count()
            })
            .sum();
        // 30,000 are expected, with a standard deviation of 173.
        assert!((29_000..31_000).contains(&count), "{count}");
    }

    #[test]
    fn sizes_and_pauses_stay_within_their_bounds() {
        let traffic = traffic("kind = \"idle\"\npause = [\"1s\", \"2s\"]\nbytes = [10, 20]");
        let steps: Vec<_> = Plan::new(3, 0, &traffic, 5).take(1000).collect();
        assert!(steps.iter().all(|step| (10..=20).contains(&step.bytes)));
        assert!(steps.iter().any(|step| step.bytes == 10) && steps.iter().any(|step| step.bytes == 20));
        for pair in steps.windows(2) {
            let gap = pair[1].due.unwrap() - pair[0].due.unwrap();
            assert!(gap >= Duration::from_secs(1) && gap <= Duration::from_secs(2), "{gap:?}");
        }
    }
}
