//! One binary of promises.
