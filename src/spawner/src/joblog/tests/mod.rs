//! Tests of the job log.

mod masker;
