//! The adapter of the port: a completion from whichever endpoint the pool chooses, tried again as the policy says.

use crate::domain::{Failure, Kind, event::EndpointStatus, transcript::Response};
use crate::endpoint::{
    Limiter, ModelClient, ModelError, OpenAi, Request, Settings,
    limiter::{End, Permit},
    openai::{Trouble, chance},
    pool::{self, Change, Chosen, Health, Member, Pool},
    retry::{GiveUp, Spent, Step, Verdict},
    settings::seconds,
    share,
};
use futures_util::future::{BoxFuture, Either, select, try_join_all};
use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// A client of one model at one or several endpoints; one serves the whole run.
#[derive(Debug)]
pub struct Endpoints {
    settings: Settings,
    all: Vec<OpenAi>,
    state: Mutex<State>,
    began: Instant,
    /// Counts what changed of the endpoints' health, for those who wait for one of them.
    changes: watch::Sender<u64>,
    /// Counts the ends of outages, for those who sleep before they try again.
    recoveries: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    counts: Vec<EndpointStatus>,
    /// Failed requests since the last completion, at all endpoints together.
    failures: u32,
}

/// Failed requests in a row that make an outage, whose end wakes those who wait to try again.
const OUTAGE: u32 = 5;
/// They are woken spread over so long.
const WAKE: Duration = Duration::from_secs(5);

/// A request that goes to an endpoint, with the right to it.
struct Going<'a> {
    trip: Trip<'a>,
    permit: Permit<'a>,
}

/// A request's way to an endpoint and back; dropped on the way, it told nothing.
struct Trip<'a> {
    endpoints: &'a Endpoints,
    chosen: Chosen,
    began: Duration,
    over: bool,
}

/// What a request came to: where, and how long it took.
struct Outcome {
    member: usize,
    took: Duration,
    result: Result<Response, Trouble>,
}

impl Endpoints {
    /// One endpoint each of `settings.each()`, with its limiter from `limiters`. Reads the keys, and talks to nobody yet.
    ///
    /// # Errors
    /// Of class `run`, where the settings cannot work: `Unauthorized` for a key, `UnknownModel` for address and model.
    pub fn new(settings: Settings, limiters: Vec<Arc<Limiter>>) -> Result<Self, Failure> {
        let each = settings.each();
        let members: Vec<_> =
            each.iter().map(|(one, weight)| Member { weight: *weight, seed: pool::key(&format!("{} {}", one.url, one.model)) }).collect();
        let pool = Pool::new(settings.pool, members);
        let all = each.into_iter().zip(limiters).map(|((one, _), limiter)| OpenAi::new(one, limiter)).collect::<Result<Vec<_>, _>>()?;
        let counts = all.iter().map(|one| EndpointStatus { endpoint: one.address().to_string(), ..EndpointStatus::default() }).collect();
        Ok(Endpoints {
            settings,
            all,
            state: Mutex::new(State { pool, counts, failures: 0 }),
            began: Instant::now(),
            changes: watch::Sender::new(0),
            recoveries: watch::Sender::new(0),
        })
    }

    /// Limiters as the settings have them, shared with other processes where these say so.
    ///
    /// # Errors
    /// Of class `run`, where what they share by cannot work.
    pub fn limiters(settings: &Settings) -> Result<Vec<Arc<Limiter>>, Failure> {
        settings.each().iter().map(|(one, _)| Ok(Arc::new(Limiter::shared(one.limits, share::ledger(one)?)))).collect()
    }

    /// Finds a wrong address, a wrong key and an unknown model of each endpoint before a run starts.
    ///
    /// # Errors
    /// As [`OpenAi::check`], for the first endpoint that is wrong. Of several, one that does not answer is no error while another does: it
    /// may be up later.
    pub async fn check(&self) -> Result<(), Failure> {
        let checks = self.all.iter().map(|one| async {
            match one.check().await {
                Err(down) if down.kind == Kind::EndpointUnavailable => Ok(Some(down)),
                other => other.map(|()| None),
            }
        });
        let down: Vec<Failure> = try_join_all(checks).await?.into_iter().flatten().collect();
        let all_are = down.len() == self.all.len();
        for failure in &down {
            tracing::warn!(%failure, "an endpoint does not answer yet");
        }
        down.into_iter().find(|_| all_are).map_or(Ok(()), Err)
    }

    /// What each endpoint did so far, and how it is.
    #[must_use]
    pub fn status(&self) -> Vec<EndpointStatus> {
        let limits: Vec<(u64, String)> = self.all.iter().map(|one| (one.limiter().snapshot().limit, one.limiter().unshared())).collect();
        let state = self.state();
        let each = state.counts.iter().zip(limits).enumerate();
        each.map(|(at, (counts, (in_flight_limit, unshared)))| EndpointStatus {
            up: state.pool.is_up(at),
            out: state.pool.is_out(at),
            ejections: state.pool.ejections(at),
            in_flight_limit,
            unshared,
            ..counts.clone()
        })
        .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    async fn complete_within_policy(&self, request: Request<'_>) -> Result<Response, ModelError> {
        let mut spent = Spent::default();
        let mut tries = 0;
        let mut avoid = None;
        loop {
            let Outcome { member, took, result } = self.ask(&request, avoid).await?;
            tries += 1;
            let trouble = match result {
                Ok(response) => return Ok(Response { tries, ..response }),
                Err(trouble) => trouble,
            };
            spent.count(trouble.verdict, self.state().pool.is_ill(member));
            spent.add(trouble.verdict, took);
            // Of several endpoints one was struck out, and another has not been asked yet.
            if matches!(trouble.verdict, Verdict::Refused(_)) && self.state().pool.is_out(member) {
                continue;
            }
            avoid = trouble.ill().then_some(member);
            match self.settings.retry.next(&spent, trouble.verdict, chance()) {
                Step::Retry(delay) => {
                    tracing::debug!(tries, ?delay, trouble = trouble.text, "request failed, trying again");
                    spent.add(trouble.verdict, self.rest(delay).await);
                }
                Step::GiveUp(GiveUp::ContextOverflow) => return Err(ModelError::ContextOverflow(trouble.text)),
                Step::GiveUp(GiveUp::Failed(kind)) => {
                    let elapsed = spent.elapsed + spent.throttled_for;
                    return Err(self.all[member].failure(kind, &trouble.text, tries, elapsed).into());
                }
            }
        }
    }

    /// Waits, but not long past the end of an outage. How long it was.
    async fn rest(&self, delay: Duration) -> Duration {
        let began = Instant::now();
        let mut recoveries = self.recoveries.subscribe();
        let woken = async {
            if recoveries.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(WAKE.mul_f64(chance())).await;
        };
        select(pin!(sleep(delay)), pin!(woken)).await;
        began.elapsed()
    }

    /// One request; with hedging, two at most.
    async fn ask(&self, request: &Request<'_>, avoid: Option<usize>) -> Result<Outcome, Failure> {
        // Boxes: thousands of requests wait here, each for one of these alone.
        let going = Box::pin(self.admit(request, avoid)).await;
        let member = going.trip.chosen.member;
        let first = Box::pin(self.send(going, request));
        if self.settings.hedge_after_s <= 0.0 || self.all.len() < 2 {
            return first.await;
        }
        let first = match select(first, pin!(sleep(seconds(self.settings.hedge_after_s)))).await {
            Either::Left((outcome, _)) => return outcome,
            Either::Right(((), first)) => first,
        };
        match select(first, Box::pin(self.ask_another(request, member))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((Some(Ok(outcome)), _)) if outcome.result.is_ok() => Ok(outcome),
            Either::Right((_, first)) => first.await,
        }
    }

    /// None where only this member is there to be asked.
    async fn ask_another(&self, request: &Request<'_>, than: usize) -> Option<Result<Outcome, Failure>> {
        let going = self.admit(request, Some(than)).await;
        if going.trip.chosen.member == than {
            going.permit.settle(End::Refused);
            return None;
        }
        Some(self.send(going, request).await)
    }

    fn choose(&self, request: &Request<'_>, avoid: Option<usize>) -> Trip<'_> {
        let now = self.now();
        let wait = |at: usize| self.all[at].limiter().wait(request.estimate);
        let chosen = self.state().pool.choose(request.affinity, wait, avoid, now);
        Trip { endpoints: self, chosen, began: now, over: false }
    }

    /// Chooses an endpoint and waits for its limits; chooses again when an endpoint falls ill or comes back meanwhile.
    async fn admit(&self, request: &Request<'_>, avoid: Option<usize>) -> Going<'_> {
        let mut changes = self.changes.subscribe();
        let mut trip = self.choose(request, avoid);
        loop {
            let mut acquired = pin!(self.all[trip.chosen.member].limiter().acquire(request.estimate));
            let elsewhere = loop {
                match select(acquired.as_mut(), pin!(changes.changed())).await {
                    Either::Left((permit, _)) => {
                        trip.began = self.now();
                        return Going { trip, permit };
                    }
                    Either::Right(_) if trip.chosen.probe => {}
                    Either::Right(_) => {
                        let again = self.choose(request, avoid);
                        if again.chosen != trip.chosen {
                            break again;
                        }
                    }
                }
            };
            trip = elsewhere;
        }
    }

    async fn send(&self, going: Going<'_>, request: &Request<'_>) -> Result<Outcome, Failure> {
        let Going { trip, permit } = going;
        let member = trip.chosen.member;
        let one = &self.all[member];
        let body = one.body_of(request)?;
        let began = Instant::now();
        let result = one.try_once(body, request.messages).await;
        let took = began.elapsed();
        let result = result.map(|reply| one.response(reply, took, 1));
        let end = match &result {
            Ok(response) => {
                let counted = response.usage.prompt_tokens.saturating_add(response.usage.completion_tokens);
                End::Done { tokens: if counted == 0 { request.estimate } else { counted } }
            }
            Err(trouble) => match trouble.verdict {
                Verdict::Throttled { retry_after } => {
                    End::Throttled { pause: self.settings.retry.believed(retry_after.unwrap_or_default()) }
                }
                Verdict::Faulty { .. } => End::Faulty,
                Verdict::ContextOverflow | Verdict::Refused(_) => End::Refused,
            },
        };
        permit.settle(end);
        if matches!(end, End::Throttled { pause } if pause > seconds(self.settings.pool.spill_after_s)) {
            self.tell_waiters();
        }
        trip.end(&result);
        Ok(Outcome { member, took, result })
    }

    fn tell_waiters(&self) {
        self.changes.send_modify(|n| *n += 1);
    }
}

impl Trip<'_> {
    /// The request is over: what it told of its endpoint's health.
    fn end(mut self, result: &Result<Response, Trouble>) {
        self.over = true;
        let health = match result {
            Err(trouble) if trouble.ill() => Health::Faulty,
            Err(Trouble { verdict: Verdict::Refused(Kind::Unauthorized | Kind::Payment | Kind::UnknownModel), .. }) => Health::Hopeless,
            Ok(_) | Err(_) => Health::Good,
        };
        let now = self.endpoints.now();
        let mut state = self.endpoints.state();
        let recovered = state.count(self.chosen.member, result);
        let change = state.pool.ended(self.chosen, health, self.began, now);
        drop(state);
        if recovered {
            self.endpoints.recoveries.send_modify(|n| *n += 1);
        }
        self.tell(change, result.as_ref().err().map_or("", |trouble| &trouble.text), now);
    }

    fn tell(&self, change: Option<Change>, why: &str, now: Duration) {
        let Some(change) = change else { return };
        let endpoint = self.endpoints.all[self.chosen.member].address();
        match change {
            Change::Ejected { until } => {
                tracing::warn!(%endpoint, why, retry_in = ?until.saturating_sub(now), "an endpoint is ill: its episodes go to the others");
            }
            Change::Returned => tracing::info!(%endpoint, "an endpoint is well again"),
            Change::Out => tracing::error!(%endpoint, why, "an endpoint is out for the rest of the run"),
        }
        self.endpoints.tell_waiters();
    }
}

impl Drop for Trip<'_> {
    fn drop(&mut self) {
        if !self.over && self.chosen.probe {
            let now = self.endpoints.now();
            self.endpoints.state().pool.ended(self.chosen, Health::Unknown, self.began, now);
        }
    }
}

impl State {
    /// Whether this reply ends an outage.
    fn count(&mut self, member: usize, result: &Result<Response, Trouble>) -> bool {
        let counts = &mut self.counts[member];
        counts.requests += 1;
        match result {
            Ok(response) => {
                counts.prompt_tokens += response.usage.prompt_tokens;
                counts.completion_tokens += response.usage.completion_tokens;
                counts.cached_tokens += response.usage.cached_tokens;
                return std::mem::take(&mut self.failures) >= OUTAGE;
            }
            Err(trouble) => {
                let passes = match trouble.verdict {
                    Verdict::Throttled { .. } => &mut counts.throttled,
                    Verdict::Faulty { .. } => &mut counts.faults,
                    Verdict::ContextOverflow => return false,
                    Verdict::Refused(_) => {
                        counts.trouble.clone_from(&trouble.text);
                        return false;
                    }
                };
                *passes += 1;
                counts.trouble.clone_from(&trouble.text);
            }
        }
        self.failures = self.failures.saturating_add(1);
        false
    }
}

impl ModelClient for Endpoints {
    fn complete<'a>(&'a self, request: Request<'a>) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(self.complete_within_policy(request))
    }
}
