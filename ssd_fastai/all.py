"Everything a notebook needs: `from ssd_fastai.all import *`"
from fastai.vision.all import *
from torchvision.ops import box_iou
from torchvision.models import (resnet18, resnet34, resnet50, resnet101, vgg16, vgg16_bn, mobilenet_v2, mobilenet_v3_large,
                                mobilenet_v3_small, efficientnet_b0, convnext_tiny)

from ssd_fastai.sample import *
from ssd_fastai.annotations import *
from ssd_fastai.boxes import *
from ssd_fastai.formats import *
from ssd_fastai.augment import *
from ssd_fastai.data import *
from ssd_fastai.check import *
from ssd_fastai.geometry import *
from ssd_fastai.policies import *
from ssd_fastai.ledger import *
from ssd_fastai.anchors import *
from ssd_fastai.match import *
from ssd_fastai.padded import *
from ssd_fastai.loss import *
from ssd_fastai.model import *
from ssd_fastai.parts import *
from ssd_fastai.published import *
from ssd_fastai.detect import *
from ssd_fastai.bias import *
from ssd_fastai.precision import *
from ssd_fastai.metrics import *
from ssd_fastai.learner import *
from ssd_fastai.lr import *
from ssd_fastai.audit import *
from ssd_fastai.groups import *
from ssd_fastai.guards import *
from ssd_fastai.resume import *
from ssd_fastai.distributed import *
from ssd_fastai.course import *
