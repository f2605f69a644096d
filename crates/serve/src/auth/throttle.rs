//! How often an address may be wrong.
//!
//! Owns the counts. Each address has so many tries, and gets one back every few seconds; right answers cost nothing. An address
//! of IPv6 counts with its network, which one machine usually has whole.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Wrong answers before an address has to wait, ...
const TRIES: u32 = 10;
/// ... and how long it takes until one of them is forgiven.
const FORGIVEN: Duration = Duration::from_secs(3);
/// Addresses that are remembered. When there are more, those with nothing to forgive go, then all.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// When an address will have been forgiven everything.
    clean: HashMap<IpAddr, Instant>,
}

impl Throttle {
    /// How long this address has to wait, if it has to.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let clean = self.clean.get(&network(address))?;
        let owed = clean.saturating_duration_since(now);
        owed.checked_sub(FORGIVEN * (TRIES - 1))
            .filter(|wait| !wait.is_zero())
    }

    pub(super) fn failed(&mut self, address: IpAddr, now: Instant) {
        if self.clean.len() >= REMEMBERED {
            self.clean.retain(|_, clean| *clean > now);
            if self.clean.len() >= REMEMBERED {
                self.clean.clear();
            }
        }
        let clean = self.clean.entry(network(address)).or_insert(now);
        *clean = (*clean).max(now) + FORGIVEN;
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_waits_after_too_many_wrong_answers_and_others_do_not() {
        let mut throttle = Throttle::default();
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let begin = Instant::now();
        for _ in 0..TRIES {
            assert_eq!(throttle.wait(one, begin), None);
            throttle.failed(one, begin);
        }
        assert_eq!(throttle.wait(one, begin), Some(FORGIVEN));
        assert_eq!(throttle.wait(other, begin), None);
        assert_eq!(throttle.wait(one, begin + FORGIVEN), None);
        throttle.failed(one, begin + FORGIVEN);
        assert!(throttle.wait(one, begin + FORGIVEN).is_some());
        assert_eq!(throttle.wait(one, begin + FORGIVEN * 100), None);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for last in 0..TRIES {
            let address = format!("2001:db8::{last:x}").parse().unwrap();
            throttle.failed(address, now);
        }
        assert!(
            throttle
                .wait("2001:db8::ffff".parse().unwrap(), now)
                .is_some()
        );
        assert!(
            throttle
                .wait("2001:db8:1::1".parse().unwrap(), now)
                .is_none()
        );
    }

    #[test]
    fn it_never_remembers_more_than_it_says() {
        let mut throttle = Throttle::default();
        let now = Instant::now();
        for number in 0..3 * u32::try_from(REMEMBERED).unwrap() {
            throttle.failed(IpAddr::V4(number.into()), now);
            assert!(throttle.clean.len() <= REMEMBERED);
        }
    }
}
