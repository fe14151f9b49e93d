"""Models of text: tagger, translator with attention, tied language model, transformer with an LSTM."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from testing.zoo.specimen import Specimens

SPECIMENS = Specimens(of_inputs=True, atol=2e-6)

WORDS = 13


def words(batch: int, length: int) -> Tensor:
    return torch.randint(0, WORDS, (batch, length))


@SPECIMENS.of(
    lambda n, length: (words(n, length), torch.randint(0, 9, (n, length, 7))),
    example=(2, 6),
    others=((1, 9), (5, 3)),
)
class Tagger(nn.Module):
    """Embeddings of words and of their characters, a bidirectional LSTM, and the transitions of a CRF."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 6, padding_idx=0)
        self.characters = nn.Embedding(9, 4)
        self.character_lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.lstm = nn.LSTM(12, 5, num_layers=2, batch_first=True, bidirectional=True, dropout=0.3)
        self.dropout = nn.Dropout(0.5)
        self.tags = nn.Linear(10, 4)
        self.transitions = nn.Parameter(torch.randn(4, 4))

    def forward(self, tokens: Tensor, characters: Tensor) -> dict[str, Tensor]:
        batch, length, width = characters.shape
        _, (h, _) = self.character_lstm(self.characters(characters.reshape(batch * length, width)))
        spelled = h.transpose(0, 1).reshape(batch, length, -1)
        x = self.dropout(torch.cat([self.words(tokens), spelled], dim=-1))
        emissions = self.tags(self.lstm(x)[0])
        mask = tokens.ne(0)
        emissions = emissions.masked_fill(~mask.unsqueeze(-1), -9.0)
        pairs = emissions[:, 1:].unsqueeze(2) + self.transitions
        return {"emissions": emissions, "pairs": torch.logsumexp(pairs, dim=2), "length": mask.sum(1)}


@SPECIMENS.of(
    lambda n, length: (words(n, length), words(n, length + 2)), example=(2, 6), others=((4, 9), (1, 4))
)
class Translator(nn.Module):
    """An encoder, and a decoder with multiplicative attention and teacher forcing."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(WORDS, 6), nn.Embedding(WORDS, 6)
        self.encoder = nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.bridge = nn.Linear(8, 8)
        self.decoder = nn.LSTM(6, 8, batch_first=True)
        self.keys = nn.Linear(8, 8, bias=False)
        self.combine = nn.Linear(16, 8)
        self.out = nn.Linear(8, WORDS)

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        memory, (h, c) = self.encoder(self.source(source))
        h, c = (self.bridge(torch.cat([s[0], s[1]], dim=-1)).tanh().unsqueeze(0) for s in (h, c))
        y, _ = self.decoder(self.target(target), (h, c))
        scores = torch.bmm(y, self.keys(memory).transpose(1, 2)) / math.sqrt(8)
        scores = scores.masked_fill(source.eq(0).unsqueeze(1), float("-inf"))
        weights = functional.softmax(scores, dim=-1)
        context = torch.matmul(weights, memory)
        return self.out(torch.tanh(self.combine(torch.cat((context, y), 2)))), weights


def language_model_inputs(batch: int, length: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return words(length, batch), (torch.randn(2, batch, 6), torch.randn(2, batch, 8))


@SPECIMENS.of(language_model_inputs, example=(3, 5), others=((2, 9), (1, 4)))
class TiedLanguageModel(nn.Module):
    """An LSTM with state as argument and result; the output layer shares the weight of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 6)
        self.lstm = nn.LSTM(6, 8, num_layers=2, proj_size=6, dropout=0.2)
        self.out = nn.Linear(6, WORDS)
        self.out.weight = self.embedding.weight

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        y, state = self.lstm(self.embedding(tokens) * math.sqrt(6), state)
        scores = functional.log_softmax(self.out(y), dim=-1)
        loss = -scores[:-1].gather(-1, tokens[1:].unsqueeze(-1)).mean()
        return scores, state, loss


@SPECIMENS.of(lambda n, length: (words(n, length),), example=(2, 6), others=((3, 11), (1, 4)))
class TransformerAndLSTM(nn.Module):
    """Sinusoidal positions, an encoder layer with a causal mask, an LSTM, and pooling over all steps."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        angles = torch.arange(64)[:, None] / 100 ** (torch.arange(0, 8, 2) / 8)
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))
        layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.lstm = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.out = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.embedding(tokens) + self.positions[:length]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.encoder(x, mask=future, is_causal=True)
        y = self.out(self.lstm(x)[0]).mT
        largest = functional.max_pool1d(y, y.shape[2])
        return (largest + functional.avg_pool2d(y[:, None], (1, length))[:, 0]).squeeze(2)
