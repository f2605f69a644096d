//! Where tables are kept, and the object store for it.
//!
//! Owns the settings as meant and the client made from them. Does not own their reading from a file.

use std::{fmt, path::Path as FsPath, sync::Arc};

use object_store::{
    ClientOptions, ObjectStore,
    aws::{AmazonS3Builder, S3ConditionalPut},
    path::Path,
    prefix::PrefixStore,
};

use crate::{StoreError, durable::DurableFolder};

/// The storage section of the server file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageConfig {
    /// A folder, or `s3://bucket/prefix`.
    pub root: String,
    /// For S3: the server, when it is not Amazon's.
    pub endpoint: Option<String>,
    /// For S3: the region.
    pub region: Option<String>,
    /// For S3: the key's name; `None`: as the environment says.
    pub access_key: Option<String>,
    /// For S3: the key.
    pub secret_key: Option<String>,
    /// For S3: talk to `http://` endpoints too.
    pub allow_http: bool,
}

impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageConfig")
            .field("root", &self.root)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key", &self.access_key)
            .field("secret_key", &self.secret_key.as_ref().map(|_| "(hidden)"))
            .field("allow_http", &self.allow_http)
            .finish()
    }
}

/// A store rooted at the storage root, and its local folder when it has one.
pub(crate) type Opened = (Arc<dyn ObjectStore>, Option<DurableFolder>);

pub(crate) fn open(config: &StorageConfig) -> Result<Opened, StoreError> {
    let unusable = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Root {
        root: config.root.clone(),
        source,
    };
    if let Some(rest) = config.root.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let store = open_s3(config, bucket).map_err(|error| unusable(error.into()))?;
        let prefix = Path::parse(prefix).map_err(|error| unusable(error.into()))?;
        let store: Arc<dyn ObjectStore> = if prefix.as_ref().is_empty() {
            Arc::new(store)
        } else {
            Arc::new(PrefixStore::new(store, prefix))
        };
        return Ok((store, None));
    }
    if let Some((scheme, _)) = config
        .root
        .split_once("://")
        .filter(|(scheme, _)| *scheme != "file")
    {
        return Err(unusable(
            format!("{scheme}:// is not supported: use a folder or s3://bucket/prefix").into(),
        ));
    }
    let folder = config.root.strip_prefix("file://").unwrap_or(&config.root);
    let folder =
        DurableFolder::open(FsPath::new(folder)).map_err(|error| unusable(error.into()))?;
    Ok((Arc::new(folder.clone()), Some(folder)))
}

fn open_s3(
    config: &StorageConfig,
    bucket: &str,
) -> object_store::Result<object_store::aws::AmazonS3> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        // The fence of every commit: create only what is not there (S8).
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(ClientOptions::new().with_allow_http(config.allow_http));
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(key) = &config.access_key {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = &config.secret_key {
        builder = builder.with_secret_access_key(secret);
    }
    builder.build()
}
