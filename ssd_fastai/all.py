"""What people type: `from ssd_fastai.all import *`, on top of `fastai.vision.all`

Everything else is imported from its module, so that helpers never meet a reader's own names."""
from fastai.vision.all import *
from torchvision.models import (convnext_tiny, efficientnet_b0, mobilenet_v2, mobilenet_v3_large, mobilenet_v3_small,
                                resnet18, resnet34, resnet50, resnet101, vgg16, vgg16_bn)

from ssd_fastai.data.sample import draw_smear, make_cells
from ssd_fastai.data.boxes import BoxCoder, cxcywh2xyxy, show_boxes, xyxy2cxcywh
from ssd_fastai.data.photos import BadPhoto, open_photo
from ssd_fastai.data.annotations import Annotations, BoxWarning, Record, read_coco
from ssd_fastai.data.formats import read_csv, read_voc, read_yolo
from ssd_fastai.data.augment import BoxResize, ColorJitter, KeepInside, PaperWindow, RandomWindow, ssd_tfms
from ssd_fastai.data.geometry import (BoxDihedral, BoxExpand, BoxFlip, BoxIoUCrop, BoxMoves, BoxRotate, BoxWarp,
                                      BoxZoom)
from ssd_fastai.data.policies import detection_autoaugment
from ssd_fastai.data.block import BBoxDataBlock, BBoxDataLoaders, bbox_datablock
from ssd_fastai.data.folders import read_folder
from ssd_fastai.ssd.anchors import (DefaultBoxes, coverage, fastai2018_boxes, fit_default_boxes, published_boxes,
                                    show_coverage, show_default_boxes)
from ssd_fastai.ssd.loss import SSDLoss, class_weights, loss_parts
from ssd_fastai.ssd.loss_gpu import PaddedSSDLoss
from ssd_fastai.ssd.neck import TopDown
from ssd_fastai.ssd.model import SSD, SSDHead, class_priors, feature_grids, fitted_bias, prior_bias, ssd_body
from ssd_fastai.ssd.detect import Detections, detect
from ssd_fastai.train.metrics import CocoEvaluator, coco_metrics
from ssd_fastai.train.guards import NaNGuard
from ssd_fastai.train.precision import FusedAdamW
from ssd_fastai.train.learner import SSDLearner, ssd_learner, ssd_split
from ssd_fastai.train.lr import Inflection, lr_inflections, plot_drift, plot_inflections
from ssd_fastai.train.groups import FreezeStats, GroupRates
from ssd_fastai.train.resume import Resumable
from ssd_fastai.train.average import EMA
from ssd_fastai.published.layers import PreciseBatchNorm
from ssd_fastai.published.models import (coco_classes, published_input, ssd300_vgg16, ssd512_vgg16,
                                         ssdlite320_mobilenet_v2, ssdlite320_mobilenet_v3_large)
from ssd_fastai.published.ssd_2018 import TanhCoder, ssd_2018, ssd_learner_2018
from ssd_fastai.use.mistakes import Mistakes
from ssd_fastai.use.labels import label_suspects, plot_learning_curve, show_suspects, suspect_annotations
from ssd_fastai.use.onnx_detector import OnnxDetector
from ssd_fastai.use.files import detect_files, draw_found, found_annotations
from ssd_fastai.use.video import detect_video
from ssd_fastai.use.settings import course_settings

# Methods only: `dls.box_stats`, `annotations.check`, `learn.audit`, `learn.distrib`, `learn.with_classes`, `mistakes.interval`,
# `mistakes.report`, `learn.to_onnx`
import ssd_fastai.data.box_stats
import ssd_fastai.data.check
import ssd_fastai.data.datablock
import ssd_fastai.train.audit
import ssd_fastai.train.distributed
import ssd_fastai.use.confidence
import ssd_fastai.use.report
import ssd_fastai.published.classes
import ssd_fastai.use.export
import ssd_fastai.use.page
