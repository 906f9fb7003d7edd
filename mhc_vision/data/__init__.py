"""Datasets as LightningDataModules: uint8 batches from the loaders, normalised and mixed on the device."""

from mhc_vision.data.datamodule import ImageDataModule
from mhc_vision.data.digits import DigitsDataModule
from mhc_vision.data.downstream.datamodule import DownstreamDataModule
from mhc_vision.data.fake import FakeDataModule
from mhc_vision.data.image_folder import ImageFolderDataModule
from mhc_vision.data.in_memory import InMemoryDataModule
from mhc_vision.data.in_memory_folder import InMemoryFolderDataModule
from mhc_vision.data.segmentation.datamodule import SegmentationDataModule
from mhc_vision.data.timm_datasets import TimmDataModule

__all__ = [
    "DigitsDataModule",
    "DownstreamDataModule",
    "FakeDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "InMemoryDataModule",
    "InMemoryFolderDataModule",
    "SegmentationDataModule",
    "TimmDataModule",
]
