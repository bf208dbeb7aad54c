"""Networks: modules that own their parameters and build graphs when called."""

from graphrt.nn import init
from graphrt.nn.activation import (
    CELU,
    ELU,
    GELU,
    GLU,
    SELU,
    Hardshrink,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    RReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softmax2d,
    Softmin,
    Softplus,
    Softshrink,
    Softsign,
    Tanh,
    Tanhshrink,
    Threshold,
)
from graphrt.nn.attention import MultiheadAttention, TransformerEncoderLayer
from graphrt.nn.convolution import (
    ChannelShuffle,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Fold,
    LocalConv2d,
    PixelShuffle,
    PixelUnshuffle,
    Unfold,
)
from graphrt.nn.dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout
from graphrt.nn.init import manual_seed
from graphrt.nn.layers import Bilinear, Flatten, Identity, Linear, Sequential, Unflatten
from graphrt.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from graphrt.nn.module import Buffer, Module, Parameter, count_parameters, summary
from graphrt.nn.normalization import BatchNorm1d, BatchNorm2d, LayerNorm
from graphrt.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    SumPool1d,
    SumPool2d,
    SumPool3d,
)
from graphrt.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
