"""TFDS builders of cardiojax. Importing this package registers them: `tfds.builder("acdc", data_dir=…)`."""

from data_builders.acdc import acdc_dataset_builder
from data_builders.kaggle_dsb import kaggle_dsb_dataset_builder
from data_builders.mnms import mnms_dataset_builder
from data_builders.phantom import phantom_dataset_builder
from data_builders.reports import reports_dataset_builder
from data_builders.synthetic import synthetic_dataset_builder
from data_builders.ukbb import ukbb_dataset_builder

__all__ = ["acdc_dataset_builder", "kaggle_dsb_dataset_builder", "mnms_dataset_builder",
           "phantom_dataset_builder", "reports_dataset_builder", "synthetic_dataset_builder", "ukbb_dataset_builder"]
