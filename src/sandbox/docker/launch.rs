//! A container created, started, and its toolbox met, over either stream.

use super::attached::Attached;
use super::container::{Container, IoDir};
use super::daemon::{chain, said, status};
use super::images::Image;
use super::request::{Channel, SOCKET, TOOLBOX};
use super::{Inner, Slot, Trouble};
use crate::domain::{Failure, Kind};
use crate::sandbox::Spec;
use crate::toolbox::client::Toolbox;
use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout_at};

type Launched = Result<(Container, Toolbox), Trouble>;

impl Inner {
    /// Over a socket in a directory of the sandbox's own.
    pub(super) async fn launch_with_socket(self: &Arc<Self>, spec: &Spec, image: &Image, slot: &Slot) -> Launched {
        let io = self.private.path().join(self.number().to_string());
        let listener =
            listen(&io).map_err(|error| Failure::new(Kind::SandboxStart, format!("cannot listen in {}: {error}", io.display())))?;
        let body = self.body(spec, image, Channel::Socket { io: &io, toolbox: self.program.path() });
        let container = self.create(spec, body, Some(Arc::new(IoDir(io.clone()))), slot).await?;
        self.run(spec, &container).await?;
        let deadline = deadline(spec);
        let stream = tokio::select! {
            accepted = timeout_at(deadline, listener.accept()) => match accepted {
                Ok(Ok((stream, _))) => stream,
                Ok(Err(error)) => return Err(not_started(spec, &container, &error).into()),
                Err(_) => return Err(late(spec, &container).into()),
            },
            code = container.ended() => {
                let why = format!("its toolbox ended with code {code} before it connected to {}", io.display());
                return Err(Trouble::NotShared(not_started(spec, &container, &why)));
            }
        };
        // Nobody inside speaks to the engine again.
        drop(listener);
        let _ = fs::remove_file(io.join(SOCKET));
        meet(spec, container, stream, deadline).await
    }

    /// Over the attached standard input and output, the toolbox uploaded.
    pub(super) async fn launch_attached(self: &Arc<Self>, spec: &Spec, image: &Image, slot: &Slot) -> Launched {
        let archive = self.archive().await?;
        let container = self.create(spec, self.body(spec, image, Channel::Attach), None, slot).await?;
        let (daemon, id) = (&self.daemon, container.id());
        let failed =
            |error: Error| daemon.failure(Kind::SandboxStart, &format!("cannot lay the toolbox into {}", name(spec, &container)), &error);
        let to = || Some(UploadToContainerOptionsBuilder::new().path("/").build());
        daemon.ask(|| daemon.client.upload_to_container(id, to(), bollard::body_full(archive.clone()))).await.map_err(failed)?;
        let options = || Some(AttachContainerOptionsBuilder::new().stream(true).stdin(true).stdout(true).build());
        let streams = daemon.ask(|| daemon.client.attach_container(id, options())).await.map_err(failed)?;
        self.run(spec, &container).await?;
        meet(spec, container, Attached::new(streams), deadline(spec)).await
    }

    async fn create(
        self: &Arc<Self>,
        spec: &Spec,
        body: ContainerCreateBody,
        io: Option<Arc<IoDir>>,
        slot: &Slot,
    ) -> Result<Container, Trouble> {
        let created = self.daemon.ask(|| self.create_once(body.clone(), io.clone(), slot.clone())).await;
        created.map_err(|error| {
            let failure = self.daemon.failure(
                Kind::SandboxStart,
                &format!("cannot create a container of image {} for {}", spec.image, spec.attempt),
                &error,
            );
            match status(&error) {
                Some(404) => Trouble::ImageGone(Failure::new(Kind::ImageMissing, failure.message)),
                Some(400) if chain(&error).contains("bind source path does not exist") => Trouble::NotShared(failure),
                _ => Trouble::Other(failure),
            }
        })
    }

    /// In a task of its own: a caller that goes away in the middle must not leave a container that nobody knows.
    async fn create_once(self: &Arc<Self>, body: ContainerCreateBody, io: Option<Arc<IoDir>>, slot: Slot) -> Result<Container, Error> {
        let inner = self.clone();
        let creation = tokio::spawn(async move {
            let _slot = slot;
            let created = inner.daemon.client.create_container(None::<CreateContainerOptions>, body).await?;
            let follow = inner.events.follow(&created.id);
            Ok(Container::new(created.id, inner.remover.clone(), follow, io))
        });
        match creation.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(created) => created,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is ending.
            Err(Err(_)) => std::future::pending().await,
        }
    }

    async fn run(&self, spec: &Spec, container: &Container) -> Result<(), Failure> {
        let started = self.daemon.ask(|| self.daemon.client.start_container(container.id(), None::<StartContainerOptions>)).await;
        started.map_err(|error| {
            let mut failure = self.daemon.failure(Kind::SandboxStart, &format!("cannot start {}", name(spec, container)), &error);
            if failure.message.contains("setting rlimit") {
                failure.message.push_str("; lower nofile to what the daemon may give");
            }
            failure
        })
    }

    async fn archive(self: &Arc<Self>) -> Result<bytes::Bytes, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(Kind::SandboxStart, format!("cannot pack the toolbox: {error}"));
        let make = || async {
            let inner = self.clone();
            let packing = tokio::task::spawn_blocking(move || inner.program.archive(TOOLBOX));
            packing.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
        };
        self.archive.get_or_try_init(make).await.cloned()
    }
}

/// A listening socket in the new directory `io`, open to whatever user the image sets.
fn listen(io: &Path) -> std::io::Result<UnixListener> {
    DirBuilder::new().mode(0o711).create(io)?;
    let path = io.join(SOCKET);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    fs::set_permissions(io, Permissions::from_mode(0o711))?;
    Ok(listener)
}

async fn meet<S>(spec: &Spec, container: Container, stream: S, deadline: Instant) -> Launched
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    match Toolbox::connect_with(stream, patience, spec.limits.toolbox).await {
        Ok(toolbox) => Ok((container, toolbox)),
        Err(error) => {
            let fate = container.fate().await;
            let code = fate.exit_code.map(|code| format!(" (its first process ended with code {code})")).unwrap_or_default();
            Err(not_started(spec, &container, &format!("{error}{code}")).into())
        }
    }
}

fn deadline(spec: &Spec) -> Instant {
    Instant::now() + Duration::from_secs(spec.limits.start_timeout_s)
}

fn name(spec: &Spec, container: &Container) -> String {
    format!("container {:.12} of image {} for {}", container.id(), spec.image, spec.attempt)
}

fn not_started(spec: &Spec, container: &Container, why: &dyn std::fmt::Display) -> Failure {
    said(Kind::SandboxStart, &format!("{} did not start", name(spec, container)), &why.to_string())
}

fn late(spec: &Spec, container: &Container) -> Failure {
    let why = format!(
        "no greeting within {} s; is the host overloaded? Raise start_timeout_s or lower the concurrency",
        spec.limits.start_timeout_s
    );
    not_started(spec, container, &why)
}
