//! What clients did and what they were told, in the form that Elle and Knossos read: one event when an
//! operation is begun, one when it is over, all on the harness's one clock.

pub mod edn;
mod event;
mod folder;
mod operation;
mod recorder;

pub use edn::Edn;
pub use event::{Event, Kind, Process};
pub use folder::Folder;
pub use operation::{Operation, operations};
pub use recorder::Recorder;
