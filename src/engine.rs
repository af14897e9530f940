//! Composition root: the only place that names concrete adapters. Opens a run, joins its parts and performs the
//! scheduler's work.

use crate::{
    agent::{prompt::Scaffold, runner},
    config::{Backend, Settings, mutable},
    domain::{
        AttemptId, Class, EpisodeId, Failure, Grade, Instance, InstanceId, Kind, Trajectory, Transcript,
        event::{Event, EventKind, Outcome},
        trajectory::Facts,
        transcript::{Begun, Entry},
    },
    endpoint::{ModelClient, openai::OpenAi},
    grading::{grader, hygiene},
    reporter::Reporter,
    sandbox::{self, Provider, Purpose, docker::Docker, local::Local, prepare},
    scheduler::{
        core::{Action, Core, Todo},
        driver::{self, End, Stop, Work},
    },
    store::{Fact, RunDir, Store, Stream},
    tokens,
};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;
