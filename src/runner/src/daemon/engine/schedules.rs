//! tmp
use super::*;
use crate::daemon::handle::Refusal;
use crate::store::ScheduleRow;
use ci_runner_core::time::WallTime;
#[derive(Default)]
pub(super) struct Schedules {}
impl Schedules { pub fn next(&self) -> Option<WallTime> { None } }
impl Engine {
    pub(super) fn load_schedules(&mut self) {}
    pub(super) fn run_schedules(&mut self, _now: Now) {}
    pub(super) fn add_schedule(&mut self, _row: ScheduleRow, _replace: bool) -> Result<(), Refusal> { Ok(()) }
    pub(super) fn remove_schedule(&mut self, _name: &str) -> Result<(), Refusal> { Ok(()) }
}
