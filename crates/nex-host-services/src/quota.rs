//! Calls and bytes per second, per namespace: token buckets that hold one second's worth.
//!
//! A call is let in while its namespace has a call to spend and is not in debt with bytes; its bytes are then counted
//! as they pass and may leave a debt, which the calls after it wait out. So a body larger than a second's worth passes,
//! and the rate over time is still the configured one. Time is given in, not read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nex_protocol::Namespace;
use nex_protocol::link::host::HostErrorCode;
use tokio::time::Instant;

use crate::{Failure, QuotaSettings};

/// Namespaces remembered before the idle ones are forgotten.
const MANY: usize = 1024;

/// The accounts of all namespaces.
#[derive(Debug)]
pub struct Quota {
    settings: QuotaSettings,
    accounts: Mutex<HashMap<Namespace, Account>>,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    calls: f64,
    bytes: f64,
    at: Instant,
}

impl Account {
    fn refill(&mut self, settings: &QuotaSettings, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.calls = (self.calls + passed * rate(settings.calls_per_second)).min(rate(settings.calls_per_second));
        self.bytes = (self.bytes + passed * rate(settings.bytes_per_second)).min(rate(settings.bytes_per_second));
        self.at = self.at.max(now);
    }
}

/// Rates beyond 2^53 a second are no limit anyone can tell from another.
fn rate(per_second: u64) -> f64 {
    per_second as f64
}

impl Quota {
    /// Full accounts for everybody.
    pub fn new(settings: QuotaSettings) -> Self {
        Self { settings, accounts: Mutex::default() }
    }

    /// Lets a call in and takes it, with the bytes it brings, from its namespace's account; or refuses it at once.
    pub fn admit(&self, namespace: &Namespace, bytes: usize, now: Instant) -> Result<(), Failure> {
        let over = |what| Failure::new(HostErrorCode::Quota, format!("the namespace is over its {what} per second"));
        self.with(namespace, now, |account, settings| {
            if settings.calls_per_second > 0 && account.calls < 1.0 {
                return Err(over("calls"));
            }
            if settings.bytes_per_second > 0 && account.bytes <= 0.0 {
                return Err(over("bytes"));
            }
            account.calls -= 1.0;
            account.bytes -= bytes as f64;
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// Counts bytes of a call that was let in.
    pub fn charge(&self, namespace: &Namespace, bytes: usize, now: Instant) {
        self.with(namespace, now, |account, _| account.bytes -= bytes as f64);
    }

    /// Whether the namespace is out of debt with bytes.
    pub fn solvent(&self, namespace: &Namespace, now: Instant) -> bool {
        self.with(namespace, now, |account, settings| settings.bytes_per_second == 0 || account.bytes > 0.0)
            .unwrap_or(true)
    }

    pub(crate) fn charge_bytes(&self, namespace: &Namespace, bytes: usize) {
        self.charge(namespace, bytes, Instant::now());
    }

    pub(crate) fn has_bytes(&self, namespace: &Namespace) -> bool {
        self.solvent(namespace, Instant::now())
    }

    fn with<T>(
        &self,
        namespace: &Namespace,
        now: Instant,
        act: impl FnOnce(&mut Account, &QuotaSettings) -> T,
    ) -> Option<T> {
        if self.settings.calls_per_second == 0 && self.settings.bytes_per_second == 0 {
            return None;
        }
        let (calls, bytes) = (rate(self.settings.calls_per_second), rate(self.settings.bytes_per_second));
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() >= MANY && !accounts.contains_key(namespace) {
            // A full account is as good as none.
            accounts.retain(|_, account| {
                account.refill(&self.settings, now);
                account.calls < calls || account.bytes < bytes
            });
        }
        let account = accounts.entry(namespace.clone()).or_insert(Account { calls, bytes, at: now });
        account.refill(&self.settings, now);
        Some(act(account, &self.settings))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn quota(calls_per_second: u64, bytes_per_second: u64) -> Quota {
        Quota::new(QuotaSettings { calls_per_second, bytes_per_second, ..QuotaSettings::default() })
    }

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn calls_beyond_the_rate_are_refused_until_time_has_passed() {
        let (quota, a, b, start) = (quota(2, 0), namespace("a"), namespace("b"), Instant::now());
        assert!(quota.admit(&a, 0, start).is_ok());
        assert!(quota.admit(&a, 1 << 30, start).is_ok());
        assert_eq!(quota.admit(&a, 0, start).unwrap_err().code, HostErrorCode::Quota);
        assert!(quota.admit(&b, 0, start).is_ok(), "another namespace has its own account");
        let later = start + Duration::from_millis(500);
        assert!(quota.admit(&a, 0, later).is_ok());
        assert!(quota.admit(&a, 0, later).is_err());
        let much_later = start + Duration::from_secs(3600);
        assert!(quota.admit(&a, 0, much_later).is_ok() && quota.admit(&a, 0, much_later).is_ok());
        assert!(quota.admit(&a, 0, much_later).is_err(), "an idle hour saves up no more than a second");
    }

    #[test]
    fn bytes_may_leave_a_debt_that_has_to_be_waited_out() {
        let (quota, a, start) = (quota(0, 100), namespace("a"), Instant::now());
        assert!(quota.admit(&a, 350, start).is_ok());
        assert!(quota.admit(&a, 0, start + Duration::from_secs(2)).is_err());
        assert!(!quota.solvent(&a, start + Duration::from_secs(2)));
        assert!(quota.admit(&a, 10, start + Duration::from_millis(2600)).is_ok());
        quota.charge(&a, 1, start + Duration::from_millis(2600));
        assert!(quota.admit(&a, 0, start + Duration::from_millis(2600)).is_err());
    }

    #[test]
    fn idle_namespaces_are_forgotten_and_busy_ones_are_not() {
        let (quota, start) = (quota(1, 0), Instant::now());
        for i in 0..MANY {
            quota.admit(&namespace(&format!("n{i}")), 0, start).unwrap();
        }
        let later = start + Duration::from_secs(5);
        quota.admit(&namespace("busy"), 0, later).unwrap();
        assert_eq!(quota.accounts.lock().unwrap().len(), 1);
        assert!(quota.admit(&namespace("busy"), 0, later).is_err());
    }

    #[test]
    fn off_means_off() {
        let (quota, a, now) = (quota(0, 0), namespace("a"), Instant::now());
        assert!((0..10_000).all(|_| quota.admit(&a, 1 << 40, now).is_ok()));
        assert!(quota.accounts.lock().unwrap().is_empty());
    }
}
