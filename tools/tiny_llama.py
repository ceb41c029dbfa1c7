"""A small Llama in plain PyTorch, for training the bundled model.

It is the architecture of transformers' LlamaForCausalLM and exports to its tensor names. It differs
in how a batch is laid out: each document is followed by several notes that do not see each other, so
the document's keys and values are computed once for all of its notes.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def linear(inner, outer, gain=1.0):
    layer = nn.Linear(inner, outer, bias=False)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inner))
    return layer


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, size = c["hidden_size"], c["head_dim"]
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        out_gain = 1 / math.sqrt(2 * c["num_hidden_layers"])
        self.input_layernorm = Norm(width, c["rms_norm_eps"])
        self.q_proj = linear(width, heads * size)
        self.k_proj = linear(width, kv * size)
        self.v_proj = linear(width, kv * size)
        self.o_proj = linear(heads * size, width, out_gain)
        self.post_attention_layernorm = Norm(width, c["rms_norm_eps"])
        self.gate_proj = linear(width, c["intermediate_size"])
        self.up_proj = linear(width, c["intermediate_size"])
        self.down_proj = linear(c["intermediate_size"], width, out_gain)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Watch:
    """Collects range penalties and, when `record` is set, the extremes that the model card states."""

    def __init__(self, record=False):
        self.penalty = 0.0
        self.record = {} if record else None

    def add(self, value):
        self.penalty = self.penalty + value

    def note(self, key, tensor):
        if self.record is None or tensor.numel() == 0:
            return
        low, high = tensor.min().item(), tensor.max().item()
        old = self.record.get(key, (low, high))
        self.record[key] = (min(low, old[0]), max(high, old[1]))

    def gate(self, index, gate, limit=4.0):
        self.note(f"gate {index}", gate)
        self.add(F.relu(gate.abs() - limit).pow(2).sum(-1).mean())

    def residual(self, name, x, rows, limit=4.0, spread=0.6):
        x = x[rows]
        square = x.pow(2).mean(-1)
        self.note(f"residual {name}", x)
        self.note(f"mean square {name}", square)
        log = square.clamp_min(1e-9).log()
        self.add(F.relu((log - log.mean().detach()).abs() - spread).pow(2).mean() * 4)
        self.add(F.relu(x.abs() - limit).pow(2).sum(-1).mean())

    def scores(self, index, scores, masked, rows, limit=8.0):
        """scores [N, H, T, K] and the same with unseen columns at -1e30; rows [N, T] are real ones."""
        high, low = masked.amax(-1), scores.amin(-1)
        if self.record is not None:
            low = scores.masked_fill(masked < -1e29, 1e30).amin(-1)
            for head in range(scores.shape[1]):
                self.note(f"score {index}.{head}", torch.cat((high[:, head][rows], low[:, head][rows])))
        excess = F.relu(high - limit).pow(2) + F.relu(-limit - low).pow(2)
        self.add((excess * rows[:, None]).sum() / rows.sum() / scores.shape[1])


class Guide:
    """Targets for attention: where the first layer's and the last layer's heads should look.

    It shortens the long plateau before a small model finds the look-up by itself. First layer: the
    value tokens of a line (`doc_rows` [B, R]) look at its medicine with head 0 and at its group with
    head 1 (`doc_targets` [B, 2, R]); the rows of the note from which the answer is predicted look at
    the medicine with head 2 and at the patient with head 3 (`note_targets` [B*Q, 2], positions in the
    note). Last layer: head 0 of the rows that predict dose and schedule (`value_rows` [B*Q, 2]) looks
    at them in the document (`value_targets` [B*Q, 2]).
    """

    def __init__(self, doc_rows, doc_targets, doc_alive, note_targets, value_rows, value_targets):
        self.doc_rows, self.doc_targets, self.doc_alive = doc_rows, doc_targets, doc_alive
        self.note_targets, self.value_rows, self.value_targets = note_targets, value_rows, value_targets
        self.loss = 0.0

    def first_doc(self, q, k):
        rows = self.doc_rows[:, None, :, None].expand(-1, 2, -1, q.shape[-1])
        scores = q[:, :2].gather(2, rows) @ k[:, :2].transpose(-1, -2) / math.sqrt(q.shape[-1])
        hidden = torch.arange(k.shape[2])[None, None, None] > self.doc_rows[:, None, :, None]
        logs = scores.masked_fill(hidden, -1e30).log_softmax(-1)
        picked = -logs.gather(-1, self.doc_targets[..., None])[..., 0]
        self.loss = self.loss + (picked * self.doc_alive[:, None]).sum() / self.doc_alive.sum() / 2

    def first_note(self, q, k, visible, doc_width):
        rows = self.value_rows[:, None, :, None].expand(-1, 2, -1, q.shape[-1])
        scores = q[:, 2:4].gather(2, rows) @ k[:, 2:4].transpose(-1, -2) / math.sqrt(q.shape[-1])
        seen = visible.expand(q.shape[0], 1, -1, -1).gather(
            2, self.value_rows[:, None, :, None].expand(-1, 1, -1, visible.shape[-1]))
        logs = scores.masked_fill(~seen, -1e30).log_softmax(-1)
        target = (self.note_targets + doc_width)[:, :, None, None].expand(-1, -1, 2, 1)
        self.loss = self.loss - logs.gather(-1, target).mean()

    def last_note(self, masked, value_slots):
        # masked [N, H, R, K]; value_slots are the places of the dose and schedule rows among R.
        logs = masked[:, 0].log_softmax(-1)
        logs = logs[:, value_slots]
        self.loss = self.loss - logs.gather(-1, self.value_targets[..., None]).mean()


class TinyLlama(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.7)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = linear(c["hidden_size"], c["vocab_size"])
        size, theta = c["head_dim"], c["rope_parameters"]["rope_theta"]
        inverse = theta ** (-torch.arange(0, size, 2).float() / size)
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(), inverse)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def split(self, x, heads, positions=None):
        n, t, _ = x.shape
        x = x.view(n, t, heads, self.config["head_dim"]).transpose(1, 2)
        if positions is None:
            return x
        return rotate(x, self.cos[positions][:, None], self.sin[positions][:, None])

    def feed(self, layer, x, index, watch=None, rows=None):
        h = layer.post_attention_layernorm(x)
        gate = layer.gate_proj(h)
        if watch is not None:
            watch.gate(index, gate[rows])
        return x + layer.down_proj(F.silu(gate) * layer.up_proj(h))

    def forward(self, doc, doc_len, note, note_len, rows, full=False, watch=None, guide=None):
        """Logits at `rows` of each note.

        doc [B, S] padded right, doc_len [B]; note [B*Q, T] padded right, note_len [B*Q];
        rows [B*Q, R] are positions inside the note. Unless `full`, the last layer is evaluated and
        scores are watched at `rows` alone, which changes no logit. Returns [B*Q, R, V], or [B*Q, T, V] when `full`.
        """
        c = self.config
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        many = note.shape[0] // doc.shape[0]
        spread = torch.arange(doc.shape[0]).repeat_interleave(many)
        doc_pos = torch.arange(doc.shape[1])[None]
        note_pos = doc_len[spread][:, None] + torch.arange(note.shape[1])[None]
        seen_doc = (doc_pos < doc_len[:, None])[spread][:, None, None, :]
        steps = torch.arange(note.shape[1])
        alive = steps[None] < note_len[:, None]
        own = (steps[None, :] <= steps[:, None])[None, None]
        visible = torch.cat((seen_doc.expand(-1, 1, note.shape[1], -1), own.expand(note.shape[0], 1, -1, -1)), -1)
        x_doc, x = self.embed_tokens(doc), self.embed_tokens(note)
        for index, layer in enumerate(self.layers):
            last = index + 1 == len(self.layers)
            h_doc, h = layer.input_layernorm(x_doc), layer.input_layernorm(x)
            k_doc = self.split(layer.k_proj(h_doc), kv, doc_pos)
            v_doc = self.split(layer.v_proj(h_doc), kv)
            group = heads // kv
            k = torch.cat((k_doc[spread], self.split(layer.k_proj(h), kv, note_pos)), 2).repeat_interleave(group, 1)
            v = torch.cat((v_doc[spread], self.split(layer.v_proj(h), kv)), 2).repeat_interleave(group, 1)
            if watch is not None:
                watch.residual(f"{index}.in", x, alive)
            q_pos = note_pos
            if last and not full:
                pick = rows[..., None]
                x = x.gather(1, pick.expand(-1, -1, x.shape[-1]))
                h = h.gather(1, pick.expand(-1, -1, h.shape[-1]))
                q_pos = note_pos.gather(1, rows)
                visible = visible.expand(-1, 1, -1, -1)[:, 0].gather(
                    1, pick.expand(-1, -1, visible.shape[-1]))[:, None]
                alive = torch.ones_like(rows, dtype=torch.bool)
            q = self.split(layer.q_proj(h), heads, q_pos)
            if guide is not None and index == 0:
                guide.first_note(q, k, visible, doc.shape[1])
            if watch is not None and not (full or last):
                # Scores of the chosen rows alone: enough for the penalty, and the rest stays fused.
                spots = rows[:, None, :, None]
                some = q.gather(2, spots.expand(-1, heads, -1, q.shape[-1])) @ k.transpose(-1, -2)
                some = some / math.sqrt(c["head_dim"])
                seen = visible.expand(q.shape[0], 1, -1, -1).gather(2, spots.expand(-1, 1, -1, visible.shape[-1]))
                watch.scores(index, some, some.masked_fill(~seen, -1e30), torch.ones_like(rows, dtype=torch.bool))
            if full or last:
                scores = q @ k.transpose(-1, -2) / math.sqrt(c["head_dim"])
                masked = scores.masked_fill(~visible, -1e30)
                if watch is not None:
                    watch.scores(index, scores, masked, alive)
                if guide is not None and last and not full:
                    guide.last_note(masked, (0, 2))
                mixed = masked.softmax(-1) @ v
            else:
                mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            x = x + layer.o_proj(mixed.transpose(1, 2).flatten(2))
            if watch is not None:
                watch.residual(f"{index}.mid", x, alive)
            x = self.feed(layer, x, index, watch, alive)
            if not last:
                q_doc = self.split(layer.q_proj(h_doc), heads, doc_pos)
                k_doc, v_doc = k_doc.repeat_interleave(group, 1), v_doc.repeat_interleave(group, 1)
                if guide is not None and index == 0:
                    guide.first_doc(q_doc, k_doc)
                mixed = F.scaled_dot_product_attention(q_doc, k_doc, v_doc, is_causal=True)
                x_doc = x_doc + layer.o_proj(mixed.transpose(1, 2).flatten(2))
                x_doc = self.feed(layer, x_doc, index)
        if watch is not None:
            watch.residual("final", x, alive)
        return self.lm_head(self.norm(x))

    def exported(self):
        """Tensors under the names of transformers' LlamaForCausalLM."""
        out = {}
        for name, value in self.state_dict().items():
            for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
                name = name.replace(f".{part}.", f".self_attn.{part}.")
            for part in ("gate_proj", "up_proj", "down_proj"):
                name = name.replace(f".{part}.", f".mlp.{part}.")
            out[name if name.startswith("lm_head") else "model." + name] = value.detach().contiguous()
        return out
