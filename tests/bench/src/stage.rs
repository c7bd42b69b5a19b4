//! Where one copy is measured: two registries that have just started, and what lies before them.

use crate::certificates::Certificates;
use crate::network::{Path, Proxy};
use crate::record::Request;
use crate::registry::{Registry, Storage};

/// What lies before each registry.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub source: Path,
    pub destination: Path,
}

/// What the copies of a case have in common.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    pub source: &'a Storage,
    /// Absent: the loopback interface as it is.
    pub network: Option<Network>,
    /// Absent: plain HTTP.
    pub certificates: Option<&'a Certificates>,
}

/// Both registries, with empty caches.
pub struct Stage {
    pub source: End,
    pub destination: End,
}

impl Stage {
    /// Starts what `setting` says, over this destination.
    pub async fn open(setting: &Setting<'_>, destination: &Storage) -> Stage {
        let network = setting.network;
        let before = |path: fn(Network) -> Path| network.map(path);
        Stage {
            source: End::open(
                setting.source,
                setting.certificates,
                before(|network| network.source),
            )
            .await,
            destination: End::open(
                destination,
                setting.certificates,
                before(|network| network.destination),
            )
            .await,
        }
    }

    /// Stops everything.
    pub async fn close(self) {
        self.source.registry.stop().await;
        self.destination.registry.stop().await;
    }
}

/// One registry as the clients reach it.
pub struct End {
    registry: Registry,
    proxy: Option<Proxy>,
    bytes_before: u64,
}

impl End {
    async fn open(
        storage: &Storage,
        certificates: Option<&Certificates>,
        path: Option<Path>,
    ) -> End {
        let registry = Registry::start(storage, certificates).await;
        let proxy = match path {
            Some(path) => Some(Proxy::start(registry.address(), path).await),
            None => None,
        };
        End {
            registry,
            proxy,
            bytes_before: storage.bytes(),
        }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> String {
        let proxy = self.proxy.as_ref().map(Proxy::address);
        proxy.unwrap_or_else(|| self.registry.address()).to_string()
    }

    /// Without a final slash.
    pub fn url(&self) -> String {
        format!("{}://{}", self.registry.scheme(), self.host())
    }

    /// What has passed, where there is a network.
    pub fn requests(&self) -> Vec<Request> {
        self.proxy.as_ref().map_or(Vec::new(), Proxy::requests)
    }

    /// What a copy has read from here: with a network what has passed on the wire, otherwise the bodies by the access log.
    pub fn read(&self) -> Traffic {
        let accesses = self.registry.accesses();
        let bodies = accesses
            .iter()
            .filter(|access| access.method == "GET")
            .map(|access| access.bytes);
        self.traffic(bodies.sum(), |request| request.received_bytes)
    }

    /// What a copy has written to here: with a network what has passed on the wire, otherwise what `storage` has gained.
    pub fn written(&self, storage: &Storage) -> Traffic {
        let gained = storage.bytes() - self.bytes_before;
        self.traffic(gained, |request| request.sent_bytes)
    }

    fn traffic(&self, bodies: u64, wire: impl Fn(&Request) -> u64) -> Traffic {
        let accesses = self.registry.accesses();
        let (paths, bytes): (Vec<String>, u64) = match &self.proxy {
            Some(proxy) => {
                let requests = proxy.requests();
                let bytes = requests.iter().map(wire).sum();
                let paths = requests.into_iter().map(|request| request.path);
                (paths.collect(), bytes)
            }
            None => (
                accesses.into_iter().map(|access| access.path).collect(),
                bodies,
            ),
        };
        let authorization = paths.iter().filter(|path| *path == "/v2/").count();
        Traffic {
            requests: paths.len() - authorization,
            authorization,
            bytes,
        }
    }
}

/// What one copy has caused at one registry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub requests: usize,
    /// Requests that only ask how the registry wants to be spoken to; not among `requests`.
    pub authorization: usize,
    /// Read from the source, or written to the destination.
    pub bytes: u64,
}
