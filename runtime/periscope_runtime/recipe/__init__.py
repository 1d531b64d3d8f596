"""The part of a recipe that preparation reads: images and videos, prompts, tasks, buckets and limits.

`export` validates the same dataclasses from YAML, so that each field is defined once, here.
"""

from periscope_runtime.recipe.image import Area as Area
from periscope_runtime.recipe.image import ConstantImage as ConstantImage
from periscope_runtime.recipe.image import Crop as Crop
from periscope_runtime.recipe.image import ImagePolicy as ImagePolicy
from periscope_runtime.recipe.image import Pad as Pad
from periscope_runtime.recipe.image import ResizeStep as ResizeStep
from periscope_runtime.recipe.image import Stretch as Stretch
from periscope_runtime.recipe.image import Trim as Trim
from periscope_runtime.recipe.image import VideoPolicy as VideoPolicy
from periscope_runtime.recipe.limits import Buckets as Buckets
from periscope_runtime.recipe.limits import Limits as Limits
from periscope_runtime.recipe.preparation import Preparation as Preparation
from periscope_runtime.recipe.prompt import Augmentation as Augmentation
from periscope_runtime.recipe.prompt import Instruction as Instruction
from periscope_runtime.recipe.prompt import PairPrompt as PairPrompt
from periscope_runtime.recipe.prompt import Pooling as Pooling
from periscope_runtime.recipe.prompt import SeveralImages as SeveralImages
from periscope_runtime.recipe.prompt import TextRule as TextRule
from periscope_runtime.recipe.task import Task as Task
from periscope_runtime.recipe.tiles import AnyResolution as AnyResolution
from periscope_runtime.recipe.tiles import ClosestRatio as ClosestRatio
from periscope_runtime.recipe.tiles import Tiles as Tiles
