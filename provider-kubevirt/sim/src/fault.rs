//! What goes wrong on the platform itself. Faults of API requests are those of
//! [`capi_testkit::faults`].

use std::collections::BTreeSet;

use crate::platform::Platform;

/// How often things go wrong by themselves, in cases out of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// A domain that ends as it starts: the instance fails before it ran.
    pub start: u16,
    /// An import or clone that is begun anew.
    pub import: u16,
    /// A live migration that fails while memory is copied.
    pub migration: u16,
    /// Work that takes three times as long.
    pub slow: u16,
}

impl Rates {
    /// A rough day: one start in twenty fails, one import and migration in ten.
    #[must_use]
    pub fn rough() -> Self {
        Self {
            start: 50,
            import: 100,
            migration: 100,
            slow: 200,
        }
    }
}

/// What is scripted to go wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    images: BTreeSet<String>,
    imports: BTreeSet<String>,
    starts: u32,
    migrations: u32,
    silent: BTreeSet<String>,
}

impl Script {
    pub(crate) fn lacks_image(&self, image: &str) -> bool {
        self.images.contains(image)
    }

    pub(crate) fn fails_import(&self, name: &str) -> bool {
        self.imports.contains(name)
    }

    pub(crate) fn is_silent(&self, name: &str) -> bool {
        self.silent.contains(name)
    }

    pub(crate) fn take_start(&mut self) -> bool {
        take(&mut self.starts)
    }

    pub(crate) fn take_migration(&mut self) -> bool {
        take(&mut self.migrations)
    }
}

fn take(count: &mut u32) -> bool {
    let is_due = *count > 0;
    *count = count.saturating_sub(1);
    is_due
}

/// Scripts faults, from [`Platform::faults`].
#[derive(Debug)]
pub struct Faults<'a> {
    platform: &'a Platform,
}

impl<'a> Faults<'a> {
    pub(crate) fn new(platform: &'a Platform) -> Self {
        Self { platform }
    }

    /// Says that a container disk's image cannot be pulled: `ErrImagePull`, then
    /// `ImagePullBackOff`, until [`Faults::restore_image`].
    pub fn lose_image(&self, image: &str) {
        self.change(|script| {
            script.images.insert(image.to_owned());
        });
    }

    /// Lets the image be pulled again.
    pub fn restore_image(&self, image: &str) {
        self.change(|script| {
            script.images.remove(image);
        });
    }

    /// Lets imports and clones into DataVolumes of this name end as `Failed`, until
    /// [`Faults::restore_import`].
    pub fn fail_import(&self, data_volume: &str) {
        self.change(|script| {
            script.imports.insert(data_volume.to_owned());
        });
    }

    /// Lets DataVolumes of this name be filled again; those that failed begin anew.
    pub fn restore_import(&self, data_volume: &str) {
        self.change(|script| {
            script.imports.remove(data_volume);
        });
    }

    /// Lets the next so many starts of a domain fail.
    pub fn fail_starts(&self, count: u32) {
        self.change(|script| script.starts = count);
    }

    /// Lets the next so many live migrations fail.
    pub fn fail_migrations(&self, count: u32) {
        self.change(|script| script.migrations = count);
    }

    /// Lets the guest agent of the instance of this name fall silent, or speak again. Its probes fail
    /// then as well.
    pub fn silence_agent(&self, instance: &str, silent: bool) {
        self.change(|script| {
            if silent {
                script.silent.insert(instance.to_owned());
            } else {
                script.silent.remove(instance);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.platform.world.script.lock());
        self.platform.world.wake_all();
    }
}
