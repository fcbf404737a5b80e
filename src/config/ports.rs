//! The blocks of ports that sessions can allocate.
use super::reader::Reader;

/// The number of ports in a block, which is what one session gets.
const PORTS_PER_BLOCK: i32 = 4;

const MAX_PORT: i32 = 65535;

/// Where blocks of ports lie, and how long they stay allocated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortSettings {
    /// The first port of the first block.
    pub(crate) base: i32,
    /// The distance from one block to the next.
    pub(crate) range: i32,
    /// The number of blocks in a workspace.
    pub(crate) slots: i32,
    pub(crate) ttl_minutes: i32,
}

impl PortSettings {
    /// Returns the first port of a slot. It is valid, because the configuration was checked for its last
    /// slot.
    pub(crate) fn first_port(&self, slot: i32) -> i32 {
        self.base + slot * self.range
    }
}

impl Reader<'_> {
    pub(super) fn ports(&mut self) -> PortSettings {
        let settings = PortSettings {
            base: self.int("PORT_ALLOC_BASE"),
            range: self.int("PORT_ALLOC_RANGE"),
            slots: self.int("PORT_ALLOC_MAX_SESSIONS"),
            ttl_minutes: self.int("PORT_ALLOC_TTL_MINUTES"),
        };
        // An invalid value was read as 0, and its problem is already recorded.
        let is_complete = settings.base > 0 && settings.range > 0 && settings.slots > 0;
        let first_of_last = settings.base + (settings.slots - 1) * settings.range;
        if is_complete && first_of_last + PORTS_PER_BLOCK - 1 > MAX_PORT {
            let expected = "PORT_ALLOC_BASE + (PORT_ALLOC_MAX_SESSIONS - 1) * PORT_ALLOC_RANGE + 3 \
                            to be 65535 at most";
            self.problem("PORT_ALLOC_MAX_SESSIONS", expected);
        }
        settings
    }
}
