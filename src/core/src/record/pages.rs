//! Open jobs by id. Ids are dense and rise, so a page of neighbours costs one look-up and no index of its own.

use super::Job;
use crate::id::JobId;
use std::collections::BTreeMap;

/// Jobs in a page. Small, so that a few old jobs that stay open keep little memory.
const PAGE: u64 = 64;

struct Page {
    used: usize,
    jobs: Box<[Option<Job>]>,
}

/// All open jobs.
#[derive(Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Page>,
    len: usize,
    /// How many jobs were looked at, for tests of what a change costs.
    #[cfg(test)]
    pub looked_at: std::cell::Cell<u64>,
}

fn split(id: JobId) -> (u64, usize) {
    (id.get() / PAGE, usize::try_from(id.get() % PAGE).expect("a page fits usize"))
}

impl Pages {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, id: JobId) -> Option<&Job> {
        #[cfg(test)]
        self.looked_at.update(|looks| looks + 1);
        let (page, at) = split(id);
        self.pages.get(&page)?.jobs[at].as_ref()
    }

    pub fn get_mut(&mut self, id: JobId) -> Option<&mut Job> {
        #[cfg(test)]
        self.looked_at.update(|looks| looks + 1);
        let (page, at) = split(id);
        self.pages.get_mut(&page)?.jobs[at].as_mut()
    }

    pub fn insert(&mut self, job: Job) {
        let (page, at) = split(job.id);
        let size = usize::try_from(PAGE).expect("a page fits usize");
        let page = self
            .pages
            .entry(page)
            .or_insert_with(|| Page { used: 0, jobs: std::iter::repeat_with(|| None).take(size).collect() });
        if page.jobs[at].replace(job).is_none() {
            page.used += 1;
            self.len += 1;
        }
    }

    pub fn remove(&mut self, id: JobId) -> Option<Job> {
        let (number, at) = split(id);
        let page = self.pages.get_mut(&number)?;
        let job = page.jobs[at].take()?;
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 {
            self.pages.remove(&number);
        }
        Some(job)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Job> {
        self.pages.values().flat_map(|page| page.jobs.iter().flatten())
    }
}
