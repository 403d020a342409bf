//! Looks, steps and operations: the calls of the seam, in the order that makes them safe.

use std::time::Duration;

use capi_contract::{
    Bootstrap, Class, Connect, Depth, Effect, External, Format, Intent, Lookup, Moment, Operation,
    Progress, Receipt, Step, Supply,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::backoff;
use super::decide::{Aim, Sight, Situation};
use super::drive::Pass;
use super::hooks::Answer;
use super::kind::{Kind, News, ScopeOf, SessionOf};
use super::outcome::{Failure, Notice, Stop};
use super::visit::{LEAVES_WITHIN, Open};
use super::write::Extra;

/// After how many failed polls the world is looked at without the operation's answer (R4).
const POLLS_FAILED_MAX: u32 = 3;

/// What became of a step.
pub(super) enum Done {
    /// It is over: look again.
    Finished,
    /// Something has to be waited for.
    Wait(Notice),
}

/// How an operation stands.
enum Polled {
    /// There is none, or it has ended well, or the backend knows nothing of it.
    Over,
    /// It is under way.
    Running(Open),
    /// The backend could not be asked.
    Silent(Open, Failure),
}

type SeenOf<K> = <<K as Kind>::External as External>::Seen;
type StepOf<K> = <<K as Kind>::External as External>::Step;

impl<K: Kind, C: Connect<Session = SessionOf<K>>> Pass<'_, K, C> {
    /// Looks at the thing of the claim.
    pub(super) async fn look(
        &mut self,
        session: &SessionOf<K>,
        depth: Depth,
    ) -> Result<Lookup<SeenOf<K>>, Stop> {
        let claim = &self.known()?.claim;
        let external = self.driver.kind.external();
        let observed = external.observe(session, claim, depth);
        Ok(self.driver.ask("Observe", observed).await?)
    }

    /// The ledger of a pass that has a claim.
    pub(super) fn known(&self) -> Result<&capi_contract::Ledger<super::kind::ClaimOf<K>>, Failure> {
        self.ledger.as_ref().ok_or_else(|| {
            Failure::new(
                "Ledger",
                Class::Terminal,
                "the pass has no claim to work on",
            )
        })
    }

    pub(super) fn situation(&self, sight: Sight, depth: Depth, aim: Aim) -> Situation {
        let now = self.driver.options.clock.wall().as_second();
        Situation {
            sight,
            depth,
            aim,
            proven: self.is_proven(),
            remade: K::REMADE,
            outstanding: self.visit.outstanding(now),
        }
    }

    /// Asks how the open operation stands, before the world is looked at; a notice if it must be
    /// waited for.
    pub(super) async fn follow(&mut self, session: &SessionOf<K>) -> Result<Option<Notice>, Stop> {
        match self.poll(session).await? {
            Polled::Over => Ok(None),
            Polled::Running(open) => Ok(Some(self.still_running(open).await?)),
            Polled::Silent(_, failure)
                if self.visit.failures >= POLLS_FAILED_MAX || self.is_deleting() =>
            {
                tracing::info!(object = %self.name, %failure.message, "looking without the poll");
                Ok(None)
            }
            Polled::Silent(_, failure) => Err(failure.into()),
        }
    }

    /// Asks how the open operation stands.
    async fn poll(&mut self, session: &SessionOf<K>) -> Result<Polled, Stop> {
        let Some(open) = self.visit.operation.clone() else {
            return Ok(Polled::Over);
        };
        let external = self.driver.kind.external();
        let polled = external.poll(session, &open.operation);
        match self.driver.ask("Poll", polled).await {
            Ok(Progress::Running) => Ok(Polled::Running(open)),
            Ok(Progress::Finished) => {
                self.visit.answered();
                Ok(Polled::Over)
            }
            Ok(Progress::Forgotten) => {
                self.visit.operation = None;
                Ok(Polled::Over)
            }
            Ok(Progress::Failed(error)) => {
                // The operation has ended: nothing of it comes later, whatever the class.
                self.visit.refused();
                let failure = Failure::of(open.step, &error);
                self.note_elsewhere(&failure);
                Err(failure.into())
            }
            Err(failure) => Ok(Polled::Silent(open, failure)),
        }
    }

    async fn still_running(&mut self, open: Open) -> Result<Notice, Stop> {
        let recheck = backoff::poll(open.polls);
        let notice = Notice::new(
            open.step.clone(),
            format!("{} is under way", open.step),
            recheck,
        );
        if let Some(mine) = &mut self.visit.operation {
            mine.polls = mine.polls.saturating_add(1);
        }
        if open.tracked {
            self.record_token(&open.operation).await?;
        }
        Ok(notice)
    }

    /// Writes the token of a create or destroy next to its intent, so that the next life can ask.
    async fn record_token(&mut self, operation: &Operation) -> Result<(), Stop> {
        let mut ledger = self.known()?.clone();
        let Some(intent) = &mut ledger.intent else {
            return Ok(());
        };
        if intent.operation.as_ref() == Some(operation) {
            return Ok(());
        }
        intent.operation = Some(operation.clone());
        self.record(ledger, Extra::named("token")).await
    }

    fn note_elsewhere(&mut self, failure: &Failure) {
        if failure.class == Class::Elsewhere && !self.is_proven() {
            self.visit.give_up = true;
        }
    }

    /// Carries out one step: hooks, supply, intent, the bound of R2, the call, its receipt.
    pub(super) async fn carry_out(
        &mut self,
        session: &SessionOf<K>,
        step: &StepOf<K>,
        scope: Option<&ScopeOf<K>>,
    ) -> Result<Done, Stop> {
        let name = step.name();
        if let Answer::Hold(notice) = self.ask_hooks(Moment::BeforeStep(name)).await? {
            return Ok(Done::Wait(notice));
        }
        if step.wants_bootstrap() {
            match scope {
                Some(scope) => self.fetch_bootstrap(scope).await?,
                None => {
                    let message = "a step of the teardown asks for bootstrap data";
                    return Err(Failure::new(name, Class::Terminal, message).into());
                }
            }
        }
        let begun = self.driver.options.clock.monotonic();
        let repeats = step.effect() == Effect::Repeats;
        if !(repeats && self.is_recorded) {
            self.intend(step).await?;
        }
        let clock = &self.driver.options.clock;
        let took = clock.monotonic().saturating_sub(begun);
        if took > LEAVES_WITHIN || !self.driver.options.leadership.holds() {
            return Err(Stop::Late);
        }
        self.apply(session, step, repeats).await
    }

    /// Writes down what is about to be done (R1, R2).
    async fn intend(&mut self, step: &StepOf<K>) -> Result<(), Stop> {
        let mut ledger = self.known()?.clone();
        let since = self.driver.options.clock.wall().as_second();
        let settle = match step.effect() {
            Effect::Creates { settle } => Some(settle),
            Effect::Changes | Effect::Repeats | Effect::Destroys => None,
        };
        let intent = Intent {
            step: step.name().to_owned(),
            since,
            settle_seconds: self.visit.settle_seconds(settle, since),
            operation: None,
        };
        ledger.proven |= self.visit.seen_ours;
        if let Some(identity) = self.driver.kind.identity(&self.subject) {
            ledger.identity = Some(identity);
        }
        ledger.intent = Some(intent.clone());
        // What is final and was seen shares the write.
        let told = self.told.as_mut().filter(|_| self.visit.seen_ours);
        let spec = told.and_then(|told| told.spec.take());
        self.record(
            ledger,
            Extra {
                spec,
                ..Extra::named("intent")
            },
        )
        .await?;
        self.visit.intend(&intent);
        Ok(())
    }

    async fn apply(
        &mut self,
        session: &SessionOf<K>,
        step: &StepOf<K>,
        repeats: bool,
    ) -> Result<Done, Stop> {
        let name = step.name();
        let claim = self.known()?.claim.clone();
        let bootstrap = self.visit.bootstrap.take();
        let supply = match &bootstrap {
            Some(bootstrap) if step.wants_bootstrap() => Supply::with_bootstrap(bootstrap),
            _ => Supply::default(),
        };
        tracing::info!(object = %self.name, step = name, "step");
        let external = self.driver.kind.external();
        let applied = external.apply(session, &claim, step, supply);
        let answer = self.driver.ask("Apply", applied).await;
        self.visit.bootstrap = bootstrap;
        let telemetry = self.driver.options.telemetry.clone();
        match answer {
            Ok(receipt) => {
                telemetry.step(K::LABEL, name, "accepted");
                self.accepted(session, step, repeats, receipt).await
            }
            Err(failure) => {
                telemetry.step(K::LABEL, name, "failed");
                if !repeats {
                    self.note_error(&failure.class);
                }
                self.note_elsewhere(&failure);
                // The mistake may be in the bootstrap data: what is there next time is read anew.
                if step.wants_bootstrap() && failure.class == Class::Misconfigured {
                    self.visit.bootstrap = None;
                }
                let call = name;
                Err(Failure::new(call, failure.class, failure.message).into())
            }
        }
    }

    async fn accepted(
        &mut self,
        session: &SessionOf<K>,
        step: &StepOf<K>,
        repeats: bool,
        receipt: Receipt,
    ) -> Result<Done, Stop> {
        let name = step.name();
        if matches!(step.effect(), Effect::Creates { .. }) {
            let news = News {
                warning: false,
                reason: name,
                message: "accepted by the backend",
            };
            self.driver.kind.announce(&self.subject.object, news);
        }
        match receipt {
            Receipt::Finished if repeats => {}
            Receipt::Finished => self.visit.answered(),
            Receipt::Started(operation) => {
                tracing::info!(object = %self.name, step = name, operation = %operation.0, "started");
                let tracked = matches!(step.effect(), Effect::Creates { .. } | Effect::Destroys);
                self.visit.operation = Some(Open {
                    step: name.to_owned(),
                    operation,
                    tracked,
                    polls: 0,
                });
            }
        }
        // The step is under way, so a hook can only hold what comes after it.
        if let Answer::Hold(notice) = self.ask_hooks(Moment::AfterStep(name)).await? {
            return Ok(Done::Wait(notice));
        }
        // Asked before its token is written: an operation that ended at once needs no token.
        match self.poll(session).await? {
            Polled::Over => Ok(Done::Finished),
            // Nobody knows how it stands, so it counts as under way: looking at once would find
            // nothing done yet and begin it again.
            Polled::Running(open) | Polled::Silent(open, _) => {
                Ok(Done::Wait(self.still_running(open).await?))
            }
        }
    }

    /// Reads the bootstrap Secret, once per machine life (IM-13).
    async fn fetch_bootstrap(&mut self, scope: &ScopeOf<K>) -> Result<(), Stop> {
        if self.visit.bootstrap.is_some() {
            return Ok(());
        }
        let Some(name) = self.driver.kind.bootstrap_secret(scope) else {
            // Not applicable, as for machines of a pool (IM-14).
            self.visit.bootstrap = Some(Bootstrap::new(Format::default(), Vec::new()));
            return Ok(());
        };
        let api: Api<Secret> = Api::namespaced(self.driver.client.clone(), &self.name.namespace);
        let secret = api.get_opt(name).await.map_err(|error| {
            tracing::warn!(object = %self.name, secret = name, %error, "bootstrap data not read");
            let message = format!("reading the bootstrap Secret {name} failed");
            Failure::new("Bootstrap", Class::Transient, message)
        })?;
        let secret = secret.ok_or_else(|| {
            let message = format!("the bootstrap Secret {name} does not exist");
            Failure::new("Bootstrap", Class::Misconfigured, message)
        })?;
        self.visit.bootstrap = Some(bootstrap_of(name, secret)?);
        Ok(())
    }
}

impl Extra {
    fn named(name: &'static str) -> Self {
        Self { name, spec: None }
    }
}

/// Reads the keys of a bootstrap Secret (IM-13).
fn bootstrap_of(name: &str, secret: Secret) -> Result<Bootstrap, Failure> {
    let wrong = |what: String| Failure::new("Bootstrap", Class::Misconfigured, what);
    let mut data = secret.data.unwrap_or_default();
    let format = match data.get("format") {
        None => Format::default(),
        Some(text) => std::str::from_utf8(&text.0)
            .ok()
            .and_then(Format::parse)
            .ok_or_else(|| {
                wrong(format!(
                    "the bootstrap Secret {name} has an unknown format; cloud-config and ignition \
                     are known"
                ))
            })?,
    };
    let value = data.remove("value").filter(|value| !value.0.is_empty());
    let value = value.ok_or_else(|| {
        wrong(format!(
            "the bootstrap Secret {name} has no data under the key value"
        ))
    })?;
    Ok(Bootstrap::new(format, value.0))
}

/// How long to wait for a create whose answer was lost.
pub(super) fn create_unanswered(rest: Duration) -> Notice {
    Notice::new(
        "CreateUnanswered",
        "the answer to a create was lost; waiting until it must have taken effect",
        rest,
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(data: &[(&str, &str)]) -> Secret {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString((*value).into())))
            .collect();
        Secret {
            data: Some(data),
            ..Secret::default()
        }
    }

    #[test]
    fn im_13_bootstrap_data_is_read_unchanged_and_mistakes_name_the_key() {
        let read = |data: &[(&str, &str)]| bootstrap_of("boot", secret(data));
        let plain = read(&[("value", "#cloud-config\n")]).unwrap();
        assert_eq!(plain.bytes(), b"#cloud-config\n");
        assert_eq!(plain.format, Format::CloudConfig);
        let ignition = read(&[("value", "{}"), ("format", "ignition")]).unwrap();
        assert_eq!(ignition.format, Format::Ignition);
        for (data, word) in [
            (&[("other", "x")][..], "key value"),
            (&[("value", "")][..], "key value"),
            (&[("value", "x"), ("format", "bash")][..], "format"),
        ] {
            let failure = read(data).unwrap_err();
            assert_eq!(failure.class, Class::Misconfigured);
            assert!(failure.message.contains(word), "{}", failure.message);
        }
    }
}
