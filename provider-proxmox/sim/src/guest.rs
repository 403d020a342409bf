//! The operating systems in the VMs.

/// What boots in VMs that start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Guests {}

/// The guests of all VMs.
#[derive(Debug, Default)]
pub(crate) struct GuestHost {}

impl GuestHost {
    pub(crate) fn new(_guests: Option<Guests>) -> Self {
        Self {}
    }

    pub(crate) fn destroyed(&mut self, _birth: usize) {}
}

impl crate::world::World {
    pub(crate) fn boot_guest(&mut self, _vmid: u32) {}

    pub(crate) fn stop_guest(&mut self, _vmid: u32) {}
}
