//! The memory a guest may have: all of its linear memories and tables together.
//!
//! A growth beyond the limit fails as WebAssembly has it fail (`memory.grow` gives -1) and is remembered, so that the
//! trap or the exit it usually leads to is reported for what it is.

use wasmtime::ResourceLimiter;

/// Bytes of one table element, as the engine keeps it.
const ELEMENT: usize = std::mem::size_of::<usize>();

/// Bounds one instance.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    left: usize,
    denied: bool,
}

impl MemoryLimit {
    /// A limit of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: usize::try_from(bytes).unwrap_or(usize::MAX), denied: false }
    }

    /// Whether the guest asked for more than it may have.
    pub(crate) fn denied(&self) -> bool {
        self.denied
    }

    fn grow(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => {
                self.denied = true;
                false
            }
        }
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Beyond a maximum the module set for itself nothing is allocated, so nothing is counted. The pool's own
        // maximum arrives here as well; it is never below our limit, so growth refused by it was refused above.
        let within = self.grow(desired.saturating_sub(current));
        if within && maximum.is_some_and(|maximum| desired > maximum) {
            self.left = self.left.saturating_add(desired.saturating_sub(current));
        }
        Ok(within)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(ELEMENT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit_and_denial_is_remembered() {
        let mut limit = MemoryLimit::new(1000);
        assert!(limit.memory_growing(0, 600, None).unwrap());
        assert!(limit.table_growing(0, 25, None).unwrap());
        assert!(!limit.denied());
        assert!(!limit.memory_growing(600, 1000, None).unwrap());
        assert!(limit.denied());
        assert!(limit.memory_growing(600, 800, None).unwrap(), "a smaller growth still fits");
    }

    #[test]
    fn growth_beyond_the_modules_own_maximum_costs_nothing() {
        let mut limit = MemoryLimit::new(1000);
        assert!(limit.memory_growing(0, 900, Some(100)).unwrap());
        assert!(limit.memory_growing(0, 900, None).unwrap());
    }
}
