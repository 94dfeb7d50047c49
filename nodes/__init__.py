"""The node classes of this pack."""

from __future__ import annotations

from comfy_api.latest import io

from .clips import RestorationMovingNoise, RestorationSteadyFrames
from .damage import RestorationAutoLevels, RestorationDamage, RestorationScratchMask
from .degrade import RestorationDegrade
from .diffbir_control import DiffBIRConditioning, LAControlNetLoader
from .diffbir_guidance import DiffBIRDynamicCFG, DiffBIRLatentGuidance
from .diffbir_restore import DiffBIRRestoreImage
from .diffbir_sampling import DiffBIRSampler, DiffBIRSpacedScheduler
from .diffbir_stage_one import DiffBIRRemoveDegradation, SwinIRLoader
from .faces import (
    RestorationFaceAlign,
    RestorationFaceDetect,
    RestorationFacePaste,
    RestorationFacePoints,
)
from .hypir import HYPIRLoader, HYPIRRestoreImage, HYPIRSingleStep
from .image import RestorationColorFix, RestorationFinish
from .measure import RestorationFidelitySweep, RestorationFlicker, RestorationMetrics
from .resshift_loaders import ResShiftLoader, ResShiftVAELoader
from .resshift_restore import ResShiftRestoreImage
from .resshift_sampling import (
    ResidualShiftSampler,
    ResidualShiftSamplerSelect,
    ResidualShiftScheduler,
    ResShiftConditioning,
    ResShiftModelSampling,
)
from .restore_faces import RestorationFacePhoto
from .tiles import RestorationTiles
from .train_model import RestorationTrainModel
from .training import (
    ResShiftTrainingPairs,
    ResShiftValidation,
    RestorationPairCrops,
    RestorationValidationChart,
)
from .video import RestorationVideo

NODES: list[type[io.ComfyNode]] = [
    ResShiftLoader,
    ResShiftVAELoader,
    ResShiftModelSampling,
    ResShiftConditioning,
    ResidualShiftSampler,
    ResidualShiftSamplerSelect,
    ResidualShiftScheduler,
    ResShiftRestoreImage,
    LAControlNetLoader,
    SwinIRLoader,
    DiffBIRRemoveDegradation,
    DiffBIRConditioning,
    DiffBIRLatentGuidance,
    DiffBIRDynamicCFG,
    DiffBIRSampler,
    DiffBIRSpacedScheduler,
    DiffBIRRestoreImage,
    HYPIRLoader,
    HYPIRSingleStep,
    HYPIRRestoreImage,
    RestorationTiles,
    RestorationMovingNoise,
    RestorationSteadyFrames,
    RestorationColorFix,
    RestorationFinish,
    RestorationMetrics,
    RestorationFlicker,
    RestorationFidelitySweep,
    RestorationDegrade,
    RestorationDamage,
    RestorationScratchMask,
    RestorationAutoLevels,
    RestorationPairCrops,
    ResShiftTrainingPairs,
    ResShiftValidation,
    RestorationTrainModel,
    RestorationValidationChart,
    RestorationFaceDetect,
    RestorationFacePoints,
    RestorationFaceAlign,
    RestorationFacePaste,
    RestorationFacePhoto,
    RestorationVideo,
]
