//! What a run does that knows nothing of images: every instance's first sample first, each image pulled by the episode that wants it,
//! in its slot; the least recently used goes. Pure.

use super::{
    Options, Outcome,
    world::{self, Event, World},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Clone, Copy, Default)]
struct Image {
    present: bool,
    refs: u32,
    used_at: u64,
}

pub fn run(options: &Options) -> Outcome {
    let mut world = World::new(options, "naive");
    let (high, _) = world::marks(options);
    let expected = (options.image_gb * super::GB) as u64;
    let mut images = vec![Image::default(); options.images as usize];
    let mut idle: BTreeSet<(u64, u32)> = BTreeSet::new();
    let mut order = (0..options.samples).flat_map(|sample| (0..options.images).map(move |image| image * options.samples + sample));
    let mut waiting: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut to_pull: VecDeque<u32> = VecDeque::new();
    let (mut slots, mut live, mut working, mut done, mut more) = (0, 0, 0, 0, true);
    loop {
        while slots < options.concurrency {
            let Some(episode) = order.next() else {
                more = false;
                break;
            };
            let image = episode / options.samples;
            let it = &mut images[image as usize];
            (slots, live, it.refs) = (slots + 1, live + 1, it.refs + 1);
            idle.remove(&(it.used_at, image));
            if it.present {
                working += 1;
                world.after(world.agent_ms(episode), Event::Agent(episode));
            } else {
                let all = waiting.entry(image).or_default();
                if all.is_empty() {
                    to_pull.push_back(image);
                }
                all.push(episode);
            }
        }
        while world.pulling() < options.pulls_in_flight && !to_pull.is_empty() {
            while world.free() < high + expected * 2
                && let Some((_, image)) = idle.pop_first()
            {
                images[image as usize].present = false;
                world.evict(image);
            }
            if world.free() < high + expected && live > waiting.len() {
                break;
            }
            if let Some(image) = to_pull.pop_front() {
                world.pull(image);
            }
        }
        let Some(event) = world.next(live, working, more) else { break };
        match event {
            Event::Pulled(image) => {
                images[image as usize].present = true;
                for episode in waiting.remove(&image).unwrap_or_default() {
                    working += 1;
                    world.after(world.agent_ms(episode), Event::Agent(episode));
                }
            }
            Event::Agent(episode) => {
                (slots, working) = (slots - 1, working - 1);
                world.after(world.grade_ms(), Event::Grade(episode));
            }
            Event::Grade(episode) => {
                (live, done) = (live - 1, done + 1);
                let image = episode / options.samples;
                let it = &mut images[image as usize];
                (it.refs, it.used_at) = (it.refs - 1, world.now);
                if it.refs == 0 {
                    idle.insert((it.used_at, image));
                }
            }
            Event::Tick => {}
        }
    }
    world.end(done)
}
