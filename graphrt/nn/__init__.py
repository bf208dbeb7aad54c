"""Networks: modules that own their parameters and build graphs when called."""

from graphrt.nn import init
from graphrt.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from graphrt.nn.attention import MultiheadAttention, TransformerEncoderLayer
from graphrt.nn.convolution import Conv2d
from graphrt.nn.init import manual_seed
from graphrt.nn.layers import Bilinear, Dropout, Flatten, Identity, Linear, Sequential, Unflatten
from graphrt.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss
from graphrt.nn.module import Buffer, Module, Parameter, count_parameters, summary
from graphrt.nn.normalization import BatchNorm1d, BatchNorm2d, LayerNorm
from graphrt.nn.pooling import AvgPool2d, MaxPool2d, SumPool2d
from graphrt.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
