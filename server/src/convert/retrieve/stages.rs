//! Funnel levels and post stages between wire and engine.

use spandrel::{Aggregate, Cut, FunnelLevel, Parent, PostStage};
use spandrel_proto::v1 as pb;

use crate::convert::{Result, count, required, size};

/// What the wire may leave out; a test holds them to the engine's own.
const SHINGLE_WORDS: u32 = 5;
const RUN_WORDS: u32 = 32;
const JACCARD: f32 = 0.8;
const WORDS_MIN: u32 = 13;
const LETTERS_MIN: f32 = 0.6;
const REPEATS_MAX: f32 = 0.5;
const PAIR_SHARE: f32 = 0.33;
const KEEP_MIN: u32 = 1;

/// A level of a funnel.
pub(super) fn level_from_wire(level: pb::FunnelLevel) -> Result<FunnelLevel> {
    use pb::aggregate::How;
    use pb::funnel_level::By;
    let by = match required(level.by, "by")? {
        By::Document(_) => Parent::Document,
        By::Field(name) => Parent::Field(name),
        By::Chunk(_) => Parent::Chunk,
    };
    let aggregate = match level.aggregate {
        None => Aggregate::default(),
        Some(aggregate) => match required(aggregate.how, "aggregate.how")? {
            How::Max(_) => Aggregate::Max,
            How::TopMean(best) => Aggregate::TopMean(size(best)),
            How::RankSum(_) => Aggregate::RankSum,
        },
    };
    Ok(FunnelLevel { by, keep: size(level.keep), tokens_max: size(level.tokens_max), aggregate })
}

/// A level of a funnel, for the wire.
pub(super) fn level_to_wire(level: FunnelLevel) -> pb::FunnelLevel {
    use pb::aggregate::How;
    use pb::funnel_level::By;
    let by = match level.by {
        Parent::Document => By::Document(pb::ByDocument {}),
        Parent::Field(name) => By::Field(name),
        Parent::Chunk => By::Chunk(pb::ByChunk {}),
    };
    let how = match level.aggregate {
        Aggregate::Max => How::Max(pb::MaxAggregate {}),
        Aggregate::TopMean(best) => How::TopMean(count(best)),
        Aggregate::RankSum => How::RankSum(pb::RankSumAggregate {}),
    };
    pb::FunnelLevel {
        by: Some(by),
        keep: count(level.keep),
        tokens_max: count(level.tokens_max),
        aggregate: Some(pb::Aggregate { how: Some(how) }),
    }
}

/// A stage after the search.
pub(super) fn stage_from_wire(stage: pb::PostStage) -> Result<PostStage> {
    use pb::cut_stage::Where;
    use pb::post_stage::Stage;
    Ok(match required(stage.stage, "stage")? {
        Stage::AccessRecheck(_) => PostStage::AccessRecheck,
        Stage::Dedup(dedup) => PostStage::Dedup {
            near: dedup.near,
            shingle_words: size(dedup.shingle_words.unwrap_or(SHINGLE_WORDS)),
        },
        Stage::Decontaminate(from) => PostStage::Decontaminate {
            against: from.against,
            run_words: size(from.run_words.unwrap_or(RUN_WORDS)),
            jaccard: from.jaccard.unwrap_or(JACCARD),
        },
        Stage::Quality(quality) => PostStage::Quality {
            words_min: size(quality.words_min.unwrap_or(WORDS_MIN)),
            letters_min: quality.letters_min.unwrap_or(LETTERS_MIN),
            repeats_max: quality.repeats_max.unwrap_or(REPEATS_MAX),
        },
        Stage::PerDocument(quota) => PostStage::PerDocument { max: size(quota.max) },
        Stage::PerValue(quota) => PostStage::PerValue { field: quota.field, max: size(quota.max) },
        Stage::Subsample(sample) => {
            PostStage::Subsample { share: required(sample.share, "subsample.share")?, seed: sample.seed }
        }
        Stage::Rerank(rerank) => PostStage::Rerank { depth: size(rerank.depth) },
        Stage::RerankPairs(rerank) => {
            PostStage::RerankPairs { depth: size(rerank.depth), share: rerank.share.unwrap_or(PAIR_SHARE) }
        }
        Stage::Cut(cut) => PostStage::Cut(match required(cut.r#where, "cut.where")? {
            Where::LargestGap(gap) => {
                Cut::LargestGap { keep_min: size(gap.keep_min.unwrap_or(KEEP_MIN)), extra: size(gap.extra) }
            }
            Where::Share(share) => Cut::Share(share),
        }),
    })
}

/// A stage after the search, for the wire.
pub(super) fn stage_to_wire(stage: PostStage) -> pb::PostStage {
    use pb::cut_stage::Where;
    use pb::post_stage::Stage;
    let stage = match stage {
        PostStage::AccessRecheck => Stage::AccessRecheck(pb::AccessRecheckStage {}),
        PostStage::Dedup { near, shingle_words } => {
            Stage::Dedup(pb::DedupStage { near, shingle_words: Some(count(shingle_words)) })
        }
        PostStage::Decontaminate { against, run_words, jaccard } => {
            let (run_words, jaccard) = (Some(count(run_words)), Some(jaccard));
            Stage::Decontaminate(pb::DecontaminateStage { against, run_words, jaccard })
        }
        PostStage::Quality { words_min, letters_min, repeats_max } => Stage::Quality(pb::QualityStage {
            words_min: Some(count(words_min)),
            letters_min: Some(letters_min),
            repeats_max: Some(repeats_max),
        }),
        PostStage::PerDocument { max } => Stage::PerDocument(pb::PerDocumentStage { max: count(max) }),
        PostStage::PerValue { field, max } => Stage::PerValue(pb::PerValueStage { field, max: count(max) }),
        PostStage::Subsample { share, seed } => {
            Stage::Subsample(pb::SubsampleStage { share: Some(share), seed })
        }
        PostStage::Rerank { depth } => Stage::Rerank(pb::RerankStage { depth: count(depth) }),
        PostStage::RerankPairs { depth, share } => {
            Stage::RerankPairs(pb::RerankPairsStage { depth: count(depth), share: Some(share) })
        }
        PostStage::Cut(cut) => {
            let place = match cut {
                Cut::LargestGap { keep_min, extra } => {
                    Where::LargestGap(pb::LargestGap { keep_min: Some(count(keep_min)), extra: count(extra) })
                }
                Cut::Share(share) => Where::Share(share),
            };
            Stage::Cut(pb::CutStage { r#where: Some(place) })
        }
    };
    pb::PostStage { stage: Some(stage) }
}
