//! Prefix caching, as servers have it built in: what is reused is the longest prefix of a context that some
//! context before began with, in whole blocks.
//!
//! A tree of chunk sequences stands for the tree of blocks (vLLM: Kwon et al., 2023; SGLang's radix tree:
//! Zheng et al., 2024): a node is a chunk behind those of its ancestors, and holds the blocks that end in it.
//! Where there is no room, the last block of the longest unused leaf goes. To its favour all bytes are in
//! the fastest tier, and a context's own blocks stay until it is served. Cost: `O(log n)` a node or block.

use std::collections::{BTreeSet, HashMap};

use super::simulate::{Served, System};
use super::trace::{Assumptions, Chunk, Hit, Trace};
use spandrel::rag::kv::order::Reused;

const ROOT: usize = 0;

struct Node {
    parent: usize,
    chunk: u32,
    /// Blocks that are kept, of those that end in the chunk: the first ones.
    blocks: u64,
    children: usize,
    used: u64,
}

/// A prefix cache.
pub struct PrefixCache<'a> {
    assumed: &'a Assumptions,
    chunks: &'a [Chunk],
    limit_blocks: u64,
    blocks: u64,
    nodes: Vec<Node>,
    free: Vec<usize>,
    children: HashMap<(usize, u32), usize>,
    /// Leaves by last use.
    leaves: BTreeSet<(u64, usize)>,
    clock: u64,
}

impl<'a> PrefixCache<'a> {
    /// One that keeps so many bytes.
    pub fn new(assumed: &'a Assumptions, trace: &'a Trace, limit_bytes: u64) -> Self {
        let block_bytes = u64::from(assumed.block_tokens.max(1)) * assumed.bytes_per_token;
        let root = Node { parent: ROOT, chunk: 0, blocks: 0, children: 0, used: 0 };
        Self {
            assumed,
            chunks: &trace.chunks,
            limit_blocks: limit_bytes / block_bytes.max(1),
            blocks: 0,
            nodes: vec![root],
            free: Vec::new(),
            children: HashMap::new(),
            leaves: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Bytes that it keeps.
    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.assumed.block_tokens) * self.assumed.bytes_per_token
    }

    /// Blocks that end in a chunk which begins behind so many tokens.
    fn blocks_of(&self, chunk: u32, before: u64) -> u64 {
        let block = u64::from(self.assumed.block_tokens.max(1));
        (before + u64::from(self.chunks[chunk as usize].tokens)) / block - before / block
    }

    /// Nodes of the longest prefix that is kept, and whether the last has all its blocks.
    fn walk(&self, chunks: impl IntoIterator<Item = u32>) -> (Vec<usize>, bool) {
        let (mut at, mut before, mut path) = (ROOT, 0, Vec::new());
        for chunk in chunks {
            let Some(child) = self.children.get(&(at, chunk)) else { break };
            path.push(*child);
            if self.nodes[*child].blocks < self.blocks_of(chunk, before) {
                return (path, false);
            }
            before += u64::from(self.chunks[chunk as usize].tokens);
            at = *child;
        }
        (path, true)
    }

    /// Keeps blocks of a context, which are used now, as far as there is room without its own.
    fn keep(&mut self, hits: &[Hit]) {
        self.clock += 1;
        let (mut at, mut before) = (ROOT, 0);
        for hit in hits {
            let all = self.blocks_of(hit.chunk, before);
            let node = match self.children.get(&(at, hit.chunk)) {
                Some(node) => *node,
                None => self.add(at, hit.chunk),
            };
            // Out of the leaves while it is in use.
            self.leaves.remove(&(self.nodes[node].used, node));
            self.nodes[node].used = self.clock;
            let missing = all - self.nodes[node].blocks;
            let got = self.make_room(missing);
            self.nodes[node].blocks += got;
            self.blocks += got;
            before += u64::from(self.chunks[hit.chunk as usize].tokens);
            at = node;
            if got < missing {
                break;
            }
        }
        if at != ROOT && self.nodes[at].children == 0 {
            self.leaves.insert((self.clock, at));
            let end = self.trim(at);
            if end != ROOT && self.nodes[end].children == 0 {
                self.leaves.insert((self.nodes[end].used, end));
            }
        }
    }

    fn add(&mut self, parent: usize, chunk: u32) -> usize {
        let node = Node { parent, chunk, blocks: 0, children: 0, used: self.clock };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at] = node;
                at
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        };
        let used = self.nodes[parent].used;
        self.leaves.remove(&(used, parent));
        self.nodes[parent].children += 1;
        self.children.insert((parent, chunk), at);
        at
    }

    /// Drops blocks until so many have room, or none is left to drop; how many have room.
    fn make_room(&mut self, blocks: u64) -> u64 {
        while self.blocks + blocks > self.limit_blocks {
            let Some((_, leaf)) = self.leaves.first().copied() else { break };
            let gone = self.nodes[leaf].blocks.min(self.blocks + blocks - self.limit_blocks);
            self.nodes[leaf].blocks -= gone;
            self.blocks -= gone;
            self.trim(leaf);
        }
        blocks.min(self.limit_blocks - self.blocks)
    }

    /// Removes a leaf without blocks, and its parents that become such; the first that stays.
    fn trim(&mut self, mut at: usize) -> usize {
        while at != ROOT && self.nodes[at].blocks == 0 && self.nodes[at].children == 0 {
            let Node { parent, chunk, used, .. } = self.nodes[at];
            self.leaves.remove(&(used, at));
            self.children.remove(&(parent, chunk));
            self.free.push(at);
            self.nodes[parent].children -= 1;
            // Those of the context that is being served are not leaves yet.
            if parent != ROOT && self.nodes[parent].children == 0 && self.nodes[parent].used < self.clock {
                self.leaves.insert((self.nodes[parent].used, parent));
            }
            at = parent;
        }
        at
    }
}

impl System for PrefixCache<'_> {
    fn reuse(&self, hits: &[Hit], at: usize, before: &[usize]) -> Reused {
        let (path, _) = self.walk(before.iter().map(|at| hits[*at].chunk));
        if path.len() < before.len() {
            return Reused::default();
        }
        let parent = path.last().copied().unwrap_or(ROOT);
        let Some(node) = self.children.get(&(parent, hits[at].chunk)) else { return Reused::default() };
        let tokens = self.nodes[*node].blocks * u64::from(self.assumed.block_tokens);
        let all = u64::from(self.chunks[hits[at].chunk as usize].tokens);
        Reused { tokens: tokens.min(all) as f64, exact: tokens >= all }
    }

    fn serve(&mut self, hits: &[Hit]) -> Served {
        let (path, _) = self.walk(hits.iter().map(|hit| hit.chunk));
        let blocks: u64 = path.iter().map(|node| self.nodes[*node].blocks).sum();
        let mut reused = (blocks * u64::from(self.assumed.block_tokens)) as f64;
        let (mut served, mut before) = (Served::default(), 0.0);
        for hit in hits {
            let chunk = &self.chunks[hit.chunk as usize];
            let tokens = f64::from(chunk.tokens);
            let computed = tokens - reused.min(tokens);
            reused -= reused.min(tokens);
            served.computed_tokens += computed;
            served.compute_us += self.assumed.compute_us(chunk, computed, before);
            before += tokens;
        }
        self.keep(hits);
        served
    }
}

#[cfg(test)]
mod tests;
