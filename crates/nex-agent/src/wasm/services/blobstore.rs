//! `wasi:blobstore`: containers and objects in the workload's one object store.
//!
//! The container `default` (or of no name) is the whole store, as JavaScript sees it. A container of another name is a
//! folder in it: its objects are called `<container>/<object>`, and an empty object `<container>/` says that it exists.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nex_protocol::link::host::{HostError, HostReply, HostRequest, ObjectInfo, ObjectRequest};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::super::bindings::wasi::blobstore::{blobstore, container, types};
use super::super::guest::Guest;
use super::incoming::{IncomingValue, ObjectStream};
use super::outgoing::OutgoingValue;
use super::{Services, told, unexpected};

/// Objects of a container that are removed at the same time.
const AT_ONCE: usize = 8;

/// Longest name of a container, bytes.
const LONGEST_NAME: usize = 255;

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct Container {
    name: String,
    /// What its objects' names begin with.
    prefix: String,
}

/// The rest of a listing.
#[derive(Debug)]
#[expect(unreachable_pub, reason = "the generated bindings export it")]
pub struct Names(std::vec::IntoIter<String>);

impl Container {
    fn named(name: &str) -> Result<Self, String> {
        if matches!(name, "" | "default") {
            return Ok(Self { name: "default".to_owned(), prefix: String::new() });
        }
        if name.contains('/') || name.len() > LONGEST_NAME {
            return Err(format!("a container's name has 1 to {LONGEST_NAME} bytes and no '/'"));
        }
        Ok(Self { name: name.to_owned(), prefix: format!("{name}/") })
    }

    fn is_default(&self) -> bool {
        self.prefix.is_empty()
    }

    fn object(&self, name: &str) -> Result<String, String> {
        if name.is_empty() {
            return Err("an object's name is not empty".to_owned());
        }
        Ok(format!("{}{name}", self.prefix))
    }

    /// The name in this container of an object of the store; none when it is not in it, or says that a container is.
    fn name_of(&self, info: &ObjectInfo) -> Option<String> {
        let name = info.name.strip_prefix(&self.prefix)?;
        let is_marker = info.size == 0 && (name.is_empty() || name.ends_with('/'));
        (!is_marker).then(|| name.to_owned())
    }
}

fn no_container(name: &str) -> String {
    format!("there is no container {name:?}")
}

fn no_object(name: &str) -> String {
    format!("there is no object {name:?}")
}

/// Seconds since 1970; 0 when that is not known.
fn seconds(modified: Option<&str>) -> u64 {
    let time = modified.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    time.and_then(|time| u64::try_from(time.unix_timestamp()).ok()).unwrap_or_default()
}

impl Services {
    async fn object(&self, request: ObjectRequest) -> Result<HostReply, HostError> {
        self.ask(HostRequest::ObjectStore(request), Bytes::new()).await.map(|(reply, _)| reply)
    }

    async fn info(&self, name: String) -> Result<Option<ObjectInfo>, String> {
        match self.object(ObjectRequest::Info { name }).await.map_err(|error| told(&error))? {
            HostReply::Object { info } => Ok(Some(info)),
            HostReply::Missing => Ok(None),
            _ => Err(told(&unexpected("objectStore", "info"))),
        }
    }

    async fn list(&self) -> Result<Vec<ObjectInfo>, String> {
        match self.object(ObjectRequest::List).await.map_err(|error| told(&error))? {
            HostReply::Objects { objects } => Ok(objects),
            _ => Err(told(&unexpected("objectStore", "list"))),
        }
    }

    async fn delete(&self, name: String) -> Result<(), String> {
        self.object(ObjectRequest::Delete { name }).await.map(drop).map_err(|error| told(&error))
    }

    async fn delete_all(&self, names: Vec<String>) -> Result<(), String> {
        stream::iter(names).map(|name| self.delete(name)).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// The container's marker; that of the default one is not needed.
    async fn container(&self, container: &Container) -> Result<Option<ObjectInfo>, String> {
        self.info(container.prefix.clone()).await
    }

    async fn exists(&self, container: &Container) -> Result<bool, String> {
        Ok(container.is_default() || self.container(container).await?.is_some())
    }

    /// Removes all objects in a container; those that say which containers there are only stay in its own case.
    async fn clear(&self, container: &Container) -> Result<(), String> {
        let all = self.list().await?.into_iter().map(|info| info.name);
        let inside = all.filter(|name| name.starts_with(&container.prefix) && *name != container.prefix);
        self.delete_all(inside.collect()).await
    }

    /// Copies an object through the agent, chunk by chunk.
    async fn copy(&self, from: types::ObjectId, to: types::ObjectId) -> Result<(), String> {
        let (source, target) = (Container::named(&from.container)?, Container::named(&to.container)?);
        for container in [&source, &target] {
            if !self.exists(container).await? {
                return Err(no_container(&container.name));
            }
        }
        let (source, target) = (source.object(&from.object)?, target.object(&to.object)?);
        if source == target {
            return Ok(());
        }
        let Some(info) = self.info(source.clone()).await? else { return Err(no_object(&from.object)) };
        let mut stream = IncomingValue::new(source, info.size, 0, u64::MAX).stream(self).await?;
        let (sender, pieces) = mpsc::channel(1);
        let request = HostRequest::ObjectStore(ObjectRequest::Put { name: target });
        let store = async {
            let stored = self.host.upload(self.call, request, pieces).await;
            stored.map(drop).map_err(|error| told(&error))
        };
        // What went wrong with reading says more than that the upload ended without its end.
        let (read, stored) = tokio::join!(pass_on(&mut stream, sender), store);
        read.and(stored)
    }
}

async fn pass_on(stream: &mut ObjectStream, sender: mpsc::Sender<Bytes>) -> Result<(), String> {
    while let Some(piece) = stream.next().await? {
        if sender.send(piece).await.is_err() {
            return Ok(());
        }
    }
    let _ = sender.send(Bytes::new()).await;
    Ok(())
}

impl blobstore::Host for Guest {
    async fn create_container(&mut self, name: String) -> wasmtime::Result<Result<Resource<Container>, String>> {
        let made = async {
            let container = Container::named(&name)?;
            if !self.services.exists(&container).await? {
                let request = HostRequest::ObjectStore(ObjectRequest::Put { name: container.prefix.clone() });
                self.services.ask(request, Bytes::new()).await.map_err(|error| told(&error))?;
            }
            Ok(container)
        };
        match made.await {
            Ok(container) => Ok(Ok(self.table().push(container)?)),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn get_container(&mut self, name: String) -> wasmtime::Result<Result<Resource<Container>, String>> {
        let found = async {
            let container = Container::named(&name)?;
            let exists = self.services.exists(&container).await?;
            if exists { Ok(container) } else { Err(no_container(&name)) }
        };
        match found.await {
            Ok(container) => Ok(Ok(self.table().push(container)?)),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn delete_container(&mut self, name: String) -> wasmtime::Result<Result<(), String>> {
        let container = match Container::named(&name) {
            Ok(container) if container.is_default() => {
                return Ok(Err("the default container is always there; clear it instead".to_owned()));
            }
            Ok(container) => container,
            Err(why) => return Ok(Err(why)),
        };
        if let Err(why) = self.services.clear(&container).await {
            return Ok(Err(why));
        }
        Ok(self.services.delete(container.prefix).await)
    }

    async fn container_exists(&mut self, name: String) -> wasmtime::Result<Result<bool, String>> {
        match Container::named(&name) {
            Ok(container) => Ok(self.services.exists(&container).await),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn copy_object(
        &mut self,
        from: types::ObjectId,
        to: types::ObjectId,
    ) -> wasmtime::Result<Result<(), String>> {
        Ok(self.services.copy(from, to).await)
    }

    async fn move_object(
        &mut self,
        from: types::ObjectId,
        to: types::ObjectId,
    ) -> wasmtime::Result<Result<(), String>> {
        let moved = async {
            let name = Container::named(&from.container)?.object(&from.object)?;
            let stays = name == Container::named(&to.container)?.object(&to.object)?;
            self.services.copy(from, to).await?;
            if stays { Ok(()) } else { self.services.delete(name).await }
        };
        Ok(moved.await)
    }
}

impl container::Host for Guest {}

impl container::HostContainer for Guest {
    async fn name(&mut self, container: Resource<Container>) -> wasmtime::Result<Result<String, String>> {
        Ok(Ok(self.table().get(&container)?.name.clone()))
    }

    async fn info(
        &mut self,
        container: Resource<Container>,
    ) -> wasmtime::Result<Result<types::ContainerMetadata, String>> {
        let container = self.table().get(&container)?.clone();
        if container.is_default() {
            return Ok(Ok(types::ContainerMetadata { name: container.name, created_at: 0 }));
        }
        let found = self.services.container(&container).await;
        Ok(found.and_then(|found| {
            let found = found.ok_or_else(|| no_container(&container.name))?;
            let created_at = seconds(found.modified.as_deref());
            Ok(types::ContainerMetadata { name: container.name, created_at })
        }))
    }

    async fn get_data(
        &mut self,
        container: Resource<Container>,
        name: String,
        start: u64,
        end: u64,
    ) -> wasmtime::Result<Result<Resource<IncomingValue>, String>> {
        let full = match self.table().get(&container)?.object(&name) {
            Ok(full) => full,
            Err(why) => return Ok(Err(why)),
        };
        match self.services.info(full.clone()).await {
            Ok(Some(info)) => Ok(Ok(self.table().push(IncomingValue::new(full, info.size, start, end))?)),
            Ok(None) => Ok(Err(no_object(&name))),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn write_data(
        &mut self,
        container: Resource<Container>,
        name: String,
        data: Resource<OutgoingValue>,
    ) -> wasmtime::Result<Result<(), String>> {
        let name = match self.table().get(&container)?.object(&name) {
            Ok(name) => name,
            Err(why) => return Ok(Err(why)),
        };
        let services = self.services.clone();
        Ok(self.table().get_mut(&data)?.write_to(&services, name))
    }

    async fn list_objects(
        &mut self,
        container: Resource<Container>,
    ) -> wasmtime::Result<Result<Resource<Names>, String>> {
        let container = self.table().get(&container)?.clone();
        match self.services.list().await {
            Ok(all) => {
                let names: Vec<String> = all.iter().filter_map(|info| container.name_of(info)).collect();
                Ok(Ok(self.table().push(Names(names.into_iter()))?))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    async fn delete_object(
        &mut self,
        container: Resource<Container>,
        name: String,
    ) -> wasmtime::Result<Result<(), String>> {
        match self.table().get(&container)?.object(&name) {
            Ok(name) => Ok(self.services.delete(name).await),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn delete_objects(
        &mut self,
        container: Resource<Container>,
        names: Vec<String>,
    ) -> wasmtime::Result<Result<(), String>> {
        let container = self.table().get(&container)?;
        match names.iter().map(|name| container.object(name)).collect() {
            Ok(names) => Ok(self.services.delete_all(names).await),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn has_object(
        &mut self,
        container: Resource<Container>,
        name: String,
    ) -> wasmtime::Result<Result<bool, String>> {
        match self.table().get(&container)?.object(&name) {
            Ok(name) => Ok(self.services.info(name).await.map(|info| info.is_some())),
            Err(why) => Ok(Err(why)),
        }
    }

    async fn object_info(
        &mut self,
        container: Resource<Container>,
        name: String,
    ) -> wasmtime::Result<Result<types::ObjectMetadata, String>> {
        let container = self.table().get(&container)?.clone();
        let full = match container.object(&name) {
            Ok(full) => full,
            Err(why) => return Ok(Err(why)),
        };
        let found = self.services.info(full).await;
        Ok(found.and_then(|found| {
            let info = found.ok_or_else(|| no_object(&name))?;
            let created_at = seconds(info.modified.as_deref());
            Ok(types::ObjectMetadata { name, container: container.name, created_at, size: info.size })
        }))
    }

    async fn clear(&mut self, container: Resource<Container>) -> wasmtime::Result<Result<(), String>> {
        let container = self.table().get(&container)?.clone();
        Ok(self.services.clear(&container).await)
    }

    async fn drop(&mut self, container: Resource<Container>) -> wasmtime::Result<()> {
        self.table().delete(container)?;
        Ok(())
    }
}

impl container::HostStreamObjectNames for Guest {
    async fn read_stream_object_names(
        &mut self,
        names: Resource<Names>,
        count: u64,
    ) -> wasmtime::Result<Result<(Vec<String>, bool), String>> {
        let Names(rest) = self.table().get_mut(&names)?;
        let read = rest.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX)).collect();
        Ok(Ok((read, rest.as_slice().is_empty())))
    }

    async fn skip_stream_object_names(
        &mut self,
        names: Resource<Names>,
        count: u64,
    ) -> wasmtime::Result<Result<(u64, bool), String>> {
        let Names(rest) = self.table().get_mut(&names)?;
        let skipped = rest.by_ref().take(usize::try_from(count).unwrap_or(usize::MAX)).count();
        Ok(Ok((u64::try_from(skipped).unwrap_or(u64::MAX), rest.as_slice().is_empty())))
    }

    async fn drop(&mut self, names: Resource<Names>) -> wasmtime::Result<()> {
        self.table().delete(names)?;
        Ok(())
    }
}

impl types::Host for Guest {}

impl types::HostOutgoingValue for Guest {
    async fn new_outgoing_value(&mut self) -> wasmtime::Result<Resource<OutgoingValue>> {
        let value = OutgoingValue::new(self.services.memory);
        Ok(self.table().push(value)?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        value: Resource<OutgoingValue>,
    ) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
        let Some(stream) = self.table().get_mut(&value)?.stream() else { return Ok(Err(())) };
        let stream: DynOutputStream = Box::new(stream);
        Ok(Ok(self.table().push(stream)?))
    }

    async fn finish(&mut self, value: Resource<OutgoingValue>) -> wasmtime::Result<Result<(), String>> {
        let value = self.table().delete(value)?;
        Ok(value.finish().await)
    }

    async fn drop(&mut self, value: Resource<OutgoingValue>) -> wasmtime::Result<()> {
        self.table().delete(value)?;
        Ok(())
    }
}

impl types::HostIncomingValue for Guest {
    async fn incoming_value_consume_sync(
        &mut self,
        value: Resource<IncomingValue>,
    ) -> wasmtime::Result<Result<Vec<u8>, String>> {
        let value = self.table().delete(value)?;
        Ok(value.collect(&self.services).await)
    }

    async fn incoming_value_consume_async(
        &mut self,
        value: Resource<IncomingValue>,
    ) -> wasmtime::Result<Result<Resource<DynInputStream>, String>> {
        let value = self.table().delete(value)?;
        match value.stream(&self.services).await {
            Ok(stream) => {
                let stream: DynInputStream = Box::new(stream);
                Ok(Ok(self.table().push(stream)?))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    async fn size(&mut self, value: Resource<IncomingValue>) -> wasmtime::Result<u64> {
        Ok(self.table().get(&value)?.size())
    }

    async fn drop(&mut self, value: Resource<IncomingValue>) -> wasmtime::Result<()> {
        self.table().delete(value)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, size: u64) -> ObjectInfo {
        ObjectInfo { name: name.into(), size, digest: None, modified: None }
    }

    #[test]
    fn a_container_is_a_folder_and_the_default_one_is_everything() {
        let folder = Container::named("a").unwrap();
        assert_eq!(folder.object("x/y"), Ok("a/x/y".into()));
        assert_eq!(folder.name_of(&info("a/x/y", 1)), Some("x/y".into()));
        assert_eq!(folder.name_of(&info("a/", 0)), None, "its marker");
        assert_eq!(folder.name_of(&info("ab", 1)), None);
        for default in ["", "default"] {
            let all = Container::named(default).unwrap();
            assert_eq!(all.name_of(&info("a/x", 1)), Some("a/x".into()));
            assert_eq!(all.name_of(&info("a/", 0)), None);
            assert_eq!(all.name_of(&info("a/", 1)), Some("a/".into()), "an object that somebody called so");
        }
        assert!(Container::named("a/b").is_err());
        assert!(Container::named(&"c".repeat(256)).is_err());
        assert!(folder.object("").is_err());
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(seconds(Some("1970-01-02T00:00:01.5Z")), 86401);
        assert_eq!(seconds(Some("yesterday")), 0);
        assert_eq!(seconds(None), 0);
    }
}
