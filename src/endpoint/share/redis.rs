//! Limits in Redis. One task a process asks for all that wait, at most once in `TICK`, so that a request costs a part of one
//! round trip; one script decides, by the server's clock. While Redis is away a process goes on with its part of the limits.

use super::{Ledger, Settings, part::Part, settings::PASSWORD_ENV};
use crate::domain::{Failure, Kind};
use crate::endpoint::{
    limiter::Limits,
    settings::{Secret, seconds},
};
use futures_util::future::BoxFuture;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisResult, aio::MultiplexedConnection};
use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

const SCRIPT: &str = include_str!("redis.lua");
/// From one call to the next, at least.
const TICK: Duration = Duration::from_millis(25);
/// From one call to the next, at most: tells that this process is alive, and learns of pauses and corrections.
const BEAT: Duration = Duration::from_secs(1);
/// From one try to connect to the next.
const RECONNECT: Duration = Duration::from_secs(1);
/// Requests that one call asks for.
const BATCH: usize = 256;
/// A reply's tokens count as at most so many minutes of the limit.
const MOST_MINUTES: u64 = 10;

/// The limits of one endpoint and key, shared with the other processes that name the same.
#[derive(Debug)]
pub struct Redis {
    told: mpsc::UnboundedSender<Told>,
    /// Until the first request.
    clerk: Mutex<Option<Clerk>>,
    trouble: watch::Receiver<String>,
}

#[derive(Debug)]
enum Told {
    Reserve(Waiting),
    Settle {
        estimate: u64,
        used: u64,
    },
    /// Was let go, and did not go out.
    GiveBack {
        estimate: u64,
    },
    Pause(Duration),
}

#[derive(Debug)]
struct Waiting {
    estimate: u64,
    go: oneshot::Sender<()>,
}

/// What the next call tells.
#[derive(Debug, Default)]
struct Owed {
    given_back: u64,
    tokens: i64,
    pause: Duration,
}

#[derive(Debug)]
enum Link {
    Up { connection: MultiplexedConnection, joins: bool },
    Connecting(JoinHandle<RedisResult<MultiplexedConnection>>),
    Down { retry: Instant },
}

/// The task that talks to Redis.
#[derive(Debug)]
struct Clerk {
    told: mpsc::UnboundedReceiver<Told>,
    trouble: watch::Sender<String>,
    client: Client,
    /// Without a user or a password.
    shown: String,
    keys: [String; 4],
    me: String,
    limits: Limits,
    patience: Duration,
    waiting: VecDeque<Waiting>,
    owed: Owed,
    link: Link,
    /// Present while Redis is away.
    part: Option<Part>,
    /// Requests let go by whoever lets go now, and not settled. The estimates of others were not charged here.
    ours: u64,
    processes: u64,
    least_processes: u64,
    began: Instant,
    called: Instant,
    /// The head may go by then.
    hope: Instant,
}

impl Redis {
    /// Talks to nobody before the first request. `address` is the endpoint's; `env` looks up an environment variable.
    ///
    /// # Errors
    /// `Unauthorized` where a password was named that is not there, or the address cannot be read.
    pub fn new(settings: &Settings, address: &str, limits: Limits, env: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::new(Kind::Unauthorized, format!("limits cannot be shared: {why}"));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = settings.url.trim();
        let mend = "write endpoint.share.url as in redis://127.0.0.1:6379/0";
        let mut info = url.into_connection_info().map_err(|e| wrong(format!("the address of Redis cannot be read ({e}): {mend}")))?;
        match env(&settings.password_env).as_deref().and_then(Secret::new) {
            Some(password) => {
                let with = info.redis_settings().clone().set_password(password.expose());
                info = info.set_redis_settings(with);
            }
            None if settings.password_env != PASSWORD_ENV => {
                return Err(wrong(format!(
                    "set the environment variable {}, which endpoint.share.password_env names",
                    settings.password_env
                )));
            }
            None => {}
        }
        let shown = info.addr().to_string();
        let client = Client::open(info).map_err(|e| wrong(format!("{shown} cannot be used ({e}): {mend}")))?;
        let hash_tag = format!("{} {}", settings.name, address.trim().trim_end_matches('/'));
        let now = Instant::now();
        let (tell, told) = mpsc::unbounded_channel();
        let (say, trouble) = watch::channel(String::new());
        let clerk = Clerk {
            told,
            trouble: say,
            client,
            shown,
            // Braces keep the keys of one endpoint on one node of a cluster.
            keys: ["limits", "spent", "waiting", "alive"].map(|what| format!("sweroll:{{{hash_tag}}}:{what}")),
            me: format!("{}-{:016x}", std::process::id(), RandomState::new().hash_one(0)),
            limits,
            patience: seconds(settings.timeout_s),
            waiting: VecDeque::new(),
            owed: Owed::default(),
            link: Link::Down { retry: now },
            part: None,
            ours: 0,
            processes: 1,
            least_processes: settings.processes,
            began: now,
            called: now,
            hope: now,
        };
        Ok(Redis { told: tell, clerk: Mutex::new(Some(clerk)), trouble })
    }

    fn tell(&self, told: Told) {
        let _ = self.told.send(told);
    }
}

/// A request that waits to be let go. Dropped when it was let go and nobody saw, it is given back.
struct Wait<'a> {
    redis: &'a Redis,
    estimate: u64,
    going: oneshot::Receiver<()>,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.going.close();
        if self.going.try_recv().is_ok() {
            self.redis.tell(Told::GiveBack { estimate: self.estimate });
        }
    }
}

impl Ledger for Redis {
    fn reserve(&self, estimate: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(clerk) = self.clerk.lock().unwrap_or_else(PoisonError::into_inner).take() {
                tokio::spawn(clerk.work());
            }
            let (go, going) = oneshot::channel();
            self.tell(Told::Reserve(Waiting { estimate, go }));
            let mut wait = Wait { redis: self, estimate, going };
            // A clerk that is gone holds up nobody.
            let _ = (&mut wait.going).await;
        })
    }

    fn settle(&self, estimate: u64, used: u64) {
        self.tell(Told::Settle { estimate, used });
    }

    fn pause(&self, pause: Duration) {
        self.tell(Told::Pause(pause));
    }

    fn trouble(&self) -> String {
        self.trouble.borrow().clone()
    }
}

impl Clerk {
    async fn work(mut self) {
        loop {
            let due = self.due();
            tokio::select! {
                told = self.told.recv() => match told {
                    Some(told) => self.note(told),
                    None => return,
                },
                connected = connected(&mut self.link) => self.connected(connected),
                () = sleep_until(due) => self.act().await,
            }
        }
    }

    fn note(&mut self, told: Told) {
        let limits = self.limits;
        let capped = |tokens: u64| match limits.tokens_per_minute {
            0 => 0,
            rate => tokens.min(rate.saturating_mul(MOST_MINUTES)),
        };
        match told {
            Told::Reserve(waiting) => self.waiting.push_back(waiting),
            Told::Settle { estimate, used } => {
                let known = self.ours > 0;
                self.ours = self.ours.saturating_sub(1);
                // What another charged cannot be given back here.
                let estimate = if known { capped(estimate) } else { capped(estimate).min(capped(used)) };
                match &mut self.part {
                    Some(part) => part.correct(estimate, capped(used)),
                    None => self.owed.tokens = self.owed.tokens.saturating_add_unsigned(capped(used)).saturating_sub_unsigned(estimate),
                }
            }
            Told::GiveBack { estimate } => self.give_back(estimate),
            Told::Pause(pause) => {
                let pause = pause.min(seconds(limits.pause_cap_s));
                match &mut self.part {
                    Some(part) => part.pause(self.began.elapsed() + pause),
                    None => self.owed.pause = self.owed.pause.max(pause),
                }
            }
        }
    }

    fn give_back(&mut self, estimate: u64) {
        if self.ours == 0 {
            return;
        }
        self.ours -= 1;
        match &mut self.part {
            Some(part) => part.give_back(estimate),
            None => {
                let rate = self.limits.tokens_per_minute.saturating_mul(MOST_MINUTES);
                self.owed.given_back += 1;
                self.owed.tokens = self.owed.tokens.saturating_sub_unsigned(estimate.min(rate));
            }
        }
    }

    /// When there is something to do, if nothing is told before.
    fn due(&self) -> Instant {
        let beat = self.called + BEAT;
        let link = match &self.link {
            Link::Up { joins: true, .. } => return self.called,
            Link::Up { .. } if !self.owed.pause.is_zero() => self.called + TICK,
            Link::Up { .. } if !self.waiting.is_empty() => self.hope.max(self.called + TICK).min(beat),
            Link::Up { .. } | Link::Connecting(_) => beat,
            Link::Down { retry } => *retry,
        };
        match (&self.part, self.waiting.front()) {
            (Some(part), Some(head)) => link.min(self.began + part.ready(head.estimate)),
            _ => link,
        }
    }

    async fn act(&mut self) {
        self.waiting.retain(|waiting| !waiting.go.is_closed());
        match &mut self.link {
            Link::Up { .. } => return self.call().await,
            Link::Connecting(_) => self.called = Instant::now(),
            Link::Down { retry } if Instant::now() >= *retry => {
                let config =
                    AsyncConnectionConfig::new().set_connection_timeout(Some(self.patience)).set_response_timeout(Some(self.patience));
                let client = self.client.clone();
                let connect = async move { client.get_multiplexed_async_connection_with_config(&config).await };
                self.link = Link::Connecting(tokio::spawn(connect));
            }
            Link::Down { .. } => {}
        }
        let now = self.began.elapsed();
        let Some(part) = &mut self.part else { return };
        while let Some(head) = self.waiting.pop_front_if(|head| part.ready(head.estimate) <= now) {
            part.take(head.estimate, now);
            match head.go.send(()) {
                Ok(()) => self.ours += 1,
                Err(()) => part.give_back(head.estimate),
            }
        }
    }

    async fn call(&mut self) {
        let Link::Up { connection, joins } = &mut self.link else { return };
        let mut eval = redis::cmd("EVAL");
        eval.arg(SCRIPT).arg(self.keys.len()).arg(&self.keys).arg(&self.me);
        eval.arg(self.limits.requests_per_minute).arg(self.limits.tokens_per_minute).arg(u8::from(*joins));
        eval.arg(self.owed.given_back).arg(self.owed.tokens).arg(self.owed.pause.as_micros() as u64);
        self.waiting.iter().take(BATCH).for_each(|waiting| _ = eval.arg(waiting.estimate));
        let answer = timeout(self.patience, eval.query_async::<(usize, u64, u64)>(connection)).await;
        self.called = Instant::now();
        let (go, wait, processes) = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return self.away(&error.to_string()),
            Err(_) => return self.away("it does not answer in time"),
        };
        if std::mem::take(joins) && self.part.take().is_some() {
            self.ours = 0;
            self.trouble.send_replace(String::new());
            tracing::warn!(redis = self.shown, processes, "Redis is back: limits are shared again");
        }
        self.processes = processes;
        self.owed = Owed::default();
        self.hope = self.called + Duration::from_micros(wait);
        for waiting in self.waiting.drain(..go.min(self.waiting.len())) {
            match waiting.go.send(()) {
                Ok(()) => self.ours += 1,
                Err(()) => {
                    self.owed.given_back += 1;
                    self.owed.tokens = self.owed.tokens.saturating_sub_unsigned(waiting.estimate);
                }
            }
        }
    }

    fn connected(&mut self, result: RedisResult<MultiplexedConnection>) {
        match result {
            Ok(connection) => self.link = Link::Up { connection, joins: true },
            Err(error) => self.away(&error.to_string()),
        }
    }

    fn away(&mut self, why: &str) {
        self.link = Link::Down { retry: Instant::now() + RECONNECT };
        if self.part.is_some() {
            return;
        }
        let processes = self.processes.max(self.least_processes).max(1);
        self.trouble.send_replace(format!("Redis at {} is away ({why}): this process keeps to 1/{processes} of the limits", self.shown));
        tracing::warn!(redis = self.shown, why, "Redis is away: this process keeps to 1/{processes} of the limits until it is back");
        self.part = Some(Part::new(&self.limits, processes, self.began.elapsed()));
        if let Some(part) = &mut self.part {
            part.pause(self.began.elapsed() + self.owed.pause);
        }
        self.owed = Owed::default();
        self.ours = 0;
    }
}

/// Never, where nothing connects.
async fn connected(link: &mut Link) -> RedisResult<MultiplexedConnection> {
    match link {
        Link::Connecting(task) => match task.await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::other("the task that connects ended early").into()),
        },
        _ => std::future::pending().await,
    }
}
