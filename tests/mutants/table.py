"""The mutants: ten and more ways to break each kernel, as a text and what it becomes.

The old text must stand exactly once in its file, so that a mutant cannot go unnoticed when the
kernels change: the program says which text is gone, and fails.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One way to break a kernel."""

    file: str
    old: str
    new: str
    equivalent: str = ""
    """Why nothing can find it, where nothing can."""


def _of(file: str, *changes: tuple[str, ...]) -> list[Mutant]:
    return [Mutant(file, *change) for change in changes]


MUTANTS: list[Mutant] = [
    *_of(
        "arithmetic.h",
        ("if (x < -745.2) return 0.0;", "if (x < -745.2) return 1.0;"),
        ("return x == x ? INFINITY : x;", "return INFINITY;"),
        ("k * 6.93147180369123816490e-01) - k", "k * 6.93147180369123816490e-01) + k"),
        ("0.5 + r * (1.0 / 6.0)", "0.5 + r * (1.0 / 7.0)"),
        ("r4 * (p2 + r2 * p3)", "r4 * (p2 + r * p3)"),
        ("p = 1.0 + (r + r2 * p);", "p = 1.0 + (r + r * p);"),
        ("if (n > -1022 && n < 1024)", "if (n > -1024 && n < 1024)"),
        ("e = -54;", "e = 54;"),
        ("m *= 0.5;\n        e++;", "m *= 0.5;"),
        ("k = 21; k >= 3", "k = 21; k >= 5"),
        ("if (y == 0.5) return sqrt(x);", "if (y == 0.5) return x;"),
        ("i < (int)y; i++", "i <= (int)y; i++"),
        ("sf_exp(y * sf_log(x))", "sf_exp(x * sf_log(y))"),
        ("-0.25 * x * x", "0.25 * x * x"),
        ("return c * c;", "return c;"),
        ("(z >= 0 ? 1.0 : e)", "(z >= 0 ? e : 1.0)"),
    ),
    *_of(
        "losses.h",
        ("return 2.0 * r;", "return r;"),
        ("case SF_HALF_SQUARED: return r;", "case SF_HALF_SQUARED: return -r;"),
        ("return (r > 0.0) - (r < 0.0);", "return (r > 0.0);"),
        ("fabs(r) <= option ? r : option * sf_sign(r)", "fabs(r) <= option ? r : sf_sign(r)"),
        ("fabs(r) <= option ? 0.0 : sf_sign(r)", "fabs(r) <= 0.0 ? 0.0 : sf_sign(r)"),
        ("r < 0.0 ? -option : r > 0.0", "r < 0.0 ? option : r > 0.0"),
        ("return sf_exp(p) - y;", "return sf_exp(p);"),
        ("margin <= option ? -sign : 0.0", "margin <= 0.0 ? -sign : 0.0"),
        ("-2.0 * sign * (option - margin)", "-2.0 * (option - margin)"),
        (": -4.0 * sign;", ": -2.0 * sign;"),
        ("default: return sf_sigmoid(p) - y;", "default: return y - sf_sigmoid(p);"),
        ("return y == 0.0 || y == 1.0;", "return y >= 0.0 && y <= 1.0;"),
        ("(loss != SF_POISSON || y >= 0.0)", "1"),
        ("slope[k] = sf_exp(z[k] - most);", "slope[k] = sf_exp(z[k]);"),
        ("slope[k] /= sum;", "slope[k] /= sum + 1.0;"),
        ("slope[y] -= 1.0;", "slope[y] += 1.0;"),
        ("slope[y] -= 1.0;", "slope[0] -= 1.0;"),
        ("return (most - z[y]) + sf_log(sum);", "return (most + z[y]) + sf_log(sum);"),
    ),
    *_of(
        "model.h",
        ("m->n_updates - m->schedule_start)", "m->n_updates)"),
        ("sf_pow(t + 1.0, option[0])", "sf_pow(t + 2.0, option[0])"),
        ("1.0 / (option[0] * (option[1] + t))", "1.0 / (option[0] * option[1] + t)"),
        ("sf_pow(option[0], t / option[1])", "sf_pow(option[0], t * option[1])"),
        ("sf_pow(option[0], floor(t / option[1]))", "sf_pow(option[0], ceil(t / option[1]))"),
        ("m->lr * ((t + 1.0) / warmup)", "m->lr * (t / warmup)"),
        ("if (t >= total) return minimum;", "if (t >= total) return m->lr;"),
        ("((t - warmup) / (total - warmup))", "(t / total)"),
        ("return minimum + (m->lr - minimum)", "return (m->lr - minimum)"),
        (
            "GEOMETRIC_BATCH && m->n_updates % m->batch_every == 0",
            "GEOMETRIC_BATCH && m->n_updates % m->batch_every == 1",
        ),
        (
            "NOISE_SCALE_BATCH && m->n_updates % m->batch_every == 0",
            "NOISE_SCALE_BATCH && m->n_updates % m->batch_every == 1",
        ),
        (
            "ceil((double)m->batch_size * m->batch_growth)",
            "floor((double)m->batch_size * m->batch_growth)",
        ),
        ("(int64_t)size : m->batch_maximum;", "(int64_t)size : (int64_t)size;"),
        ("m->milestone[2 * i] <= m->n_updates", "m->milestone[2 * i] < m->n_updates"),
        ("m->mark[m->touched[i]] = 0;", "m->mark[m->touched[i]] = 1;"),
        ("m->weight_pending = 0.0;", ""),
    ),
    *_of(
        "rows.h",
        ("(sum[0] + sum[4]) + (sum[2] + sum[6])", "(sum[0] + sum[2]) + (sum[4] + sum[6])"),
        ("lane[r][part] += a * b;", "lane[r][part] = a * b;"),
        ("REST(5); REST(6);", "REST(5);"),
        ("x + r * n + j + part * WIDTH", "x + j + part * WIDTH"),
        ("sum[x.column[i] % SF_LANES] +=", "sum[i % SF_LANES] +="),
        ("if (!m->mark[j]) grad[j] = 0;", ";"),
        ("j < x.n; j++) grad[j] = c * value[j];", "j < x.n; j++) grad[j] += c * value[j];"),
        (
            "j = x.n; j < m->n_features; j++) grad[j] = 0;",
            "j = x.n + 1; j < m->n_features; j++) grad[j] = 0;",
        ),
        ("j < x.n; j++) grad[j] += c * value[j];", "j < x.n; j++) grad[j] -= c * value[j];"),
        (
            "((a * x[j] + b * x1[j]) + c * x2[j]) + d * x3[j];\n        for",
            "((a * x[j] + b * x1[j]) + (c * x2[j] + d * x3[j]));\n        for",
        ),
        ("(((grad[j] + a * x[j]) + b * x1[j])", "(((grad[j] + b * x[j]) + b * x1[j])"),
        ("0, m->n_features * sizeof(REAL));", "0, m->n_features);"),
        ("if (m->mark[j]) continue;", ""),
        ("grad[x.column[i]] += c * x.value[i];", "grad[x.column[i]] = c * x.value[i];"),
        ("(double)(m->n_scaled + 1)", "(double)(m->n_scaled + 2)"),
        ("mean[j] + delta / count", "mean[j] - delta / count"),
        ("(delta * rest - variance[j]) / count", "(delta * delta - variance[j]) / count"),
        ("? rest / sqrt(next_variance[j])", "? rest / next_variance[j]"),
        ("const double p = slope[k] + (k == (int64_t)y);", "const double p = slope[k];"),
        ("if (first) memset(sum, 0,", "if (0) memset(sum, 0,"),
        ("m->n_scaled++;", ""),
        ("(v - mean[j]) / sqrt(variance[j]) : v * 0.0", "(v - mean[j]) / sqrt(variance[j]) : 0.0"),
    ),
    *_of(
        "steps.h",
        ("next_w[j] = keep * w[j] - lr", "next_w[j] = keep * w[j] + lr"),
        ("(source[j] * factor) * scale + l2 * w[j])", "(source[j] * factor) * scale)"),
        ("(source[j] * factor) * scale + l2 * w[j])", "(source[j] * factor) + l2 * w[j])"),
        ("(source[j] * factor) * scale + l2 * w[j])", "(source[j] * scale) + l2 * w[j])"),
        ("next_v[j] = mu * v[j] - step;", "next_v[j] = v[j] - step;"),
        ("w[j] + (mu * next_v[j] - step)", "w[j] + (mu * v[j] - step)"),
        ("next_w[j] = w[j] + next_v[j];", "next_w[j] = w[j] + v[j];"),
        (
            "next_sum[j] = sum[j] + g * g;\n        next_w",
            "next_sum[j] = sum[j] + g;\n        next_w",
        ),
        ("lr * g / F(root)(next_sum[j] + eps)", "lr * g / F(root)(sum[j] + eps)"),
        ("lr * g / F(root)(next_sum[j] + eps)", "lr * g / (F(root)(next_sum[j]) + eps)"),
        ("lr * g / F(root)(next_mean[j] + eps)", "lr * g / F(root)(mean[j] + eps)"),
        ("F(root)(moved[j] + eps) /", "F(root)(moved[j]) /"),
        ("rho * moved[j] + rest * (step * step)", "rho * moved[j] + rest * (g * g)"),
        ("(w[j] - lr * decay * w[j])", "(w[j] - decay * w[j])"),
        (
            "lr * (next_first[j] * unbias_1) / (F(root)(next_second[j] * unbias_2) + eps)",
            "lr * next_first[j] / (F(root)(next_second[j] * unbias_2) + eps)",
        ),
        ("(F(root)(next_second[j] * unbias_2) + eps)", "F(root)(next_second[j] * unbias_2 + eps)"),
        ("next_second[j] > most[j] ? next_second[j] : most[j]", "next_second[j]"),
        ("(F(root)(next_most[j] * unbias_2) + eps)", "(F(root)(next_most[j]) + eps)"),
        ("const REAL g = STEP_GRADIENT(j) * share;", "const REAL g = STEP_GRADIENT(j);"),
        ("(F(root)(next_sum[j]) - F(root)(sum[j])) / alpha", "F(root)(next_sum[j]) / alpha"),
        ("size <= l1 ? 0 : next_z[j]", "size <= l1 ? next_z[j] : next_z[j]"),
        ("(next_z[j] > 0 ? l1 : -l1)", "l1"),
        ("(beta + F(root)(next_sum[j])) / alpha + own_l2", "(beta + F(root)(next_sum[j])) / alpha"),
        ("newton > rate ? newton : rate", "newton"),
        ("sum[j] + c[j] / damping;", "sum[j] + c[j];"),
        ("(samples * STEP_GRADIENT(j)) / damping", "STEP_GRADIENT(j) / damping"),
        ("next_had[j] = had[j] + (shrunk - z);", "next_had[j] = had[j];"),
        ("z - (total + had[j]) > 0 ? z - (total + had[j]) : 0", "z - (total + had[j])"),
        ("z + (total - had[j]) < 0 ?", "z + (total + had[j]) < 0 ?"),
        ("fabs((double)w[j] * scale) > most", "fabs((double)w[j]) > most"),
        ("fabs((double)w[j] * scale) > most", "(double)w[j] * scale > most"),
        (
            "case SF_ADAM: return F(step_adam)(m, s, 0);",
            "case SF_ADAM: return F(step_adam)(m, s, s->decay);",
            "the decay of an optimizer that has none is 0",
        ),
    ),
    *_of(
        "learn.h",
        (
            "total == 1.0 ? 1.0 : total > 0.0 ? 1.0 / total : 0.0",
            "total == 1.0 ? 1.0 : 1.0 / total",
        ),
        ("!m->mean || total == 1.0 ? 1.0", "total == 1.0 ? 1.0"),
        ("sf_learning_rate(m) * share,", "sf_learning_rate(m),"),
        ("share *= m->lr_factor;", ""),
        ("l1_total = m->l1_total + m->l1 * lr", "l1_total = m->l1_total + m->l1"),
        ("m->beta_1_power * m->beta_1,", "m->beta_1_power * m->beta_2,"),
        ("next_scale *= 1.0 - lr * m->l2;", "next_scale *= 1.0 + lr * m->l2;"),
        ("next_scale *= 1.0 - lr * m->l2;", "next_scale *= 1.0 - m->l2;"),
        ("fold = !(next_scale >= 1e-9 &&", "fold = !(next_scale >= 1e-300 &&"),
        ("if (fold) keep = next_scale, next_scale = 1.0;", "if (fold) next_scale = 1.0;"),
        ("m->lazy_l2 ? lr / next_scale : lr", "lr"),
        ("b.l2 = 0, b.keep = 1,", "b.keep = 1,"),
        ("b.l2 = 0, b.keep = 1,", "b.l2 = 0,"),
        ("b.decay = 0;", ""),
        ("m->intercept_lr * share : lr", "m->intercept_lr : lr"),
        ("flags |= F(nonfinite)(grad[0]);", ""),
        ("if (!F(is_set)(flags) && !too_large) {", "if (!too_large) {"),
        ("if (!F(is_set)(flags) && !too_large) {", "if (!F(is_set)(flags)) {"),
        ("m->weight_scale = next_scale;", ""),
        ("m->beta_2_power = power_2;", ""),
        ("m->l1_total = l1_total;", ""),
        ("sf_next_batch_size(m);", ""),
        ("F(dot)(x, param + SF_PAD) + param[0]", "F(dot)(x, param + SF_PAD)"),
        ("double c = weight > 0.0 ? weight * slope[k] : 0.0;", "double c = slope[k];"),
        ("c > m->clip ? m->clip : c < -m->clip ? -m->clip : c", "c > m->clip ? m->clip : c"),
        ("grad[0] = first ? (REAL)c : grad[0] + (REAL)c;", "grad[0] += (REAL)c;"),
        (
            "fmin(first ? weight : m->weight_pending + weight, DBL_MAX)",
            "fmin(m->weight_pending + 1.0, DBL_MAX)",
        ),
        (
            "fmin(first ? weight : m->weight_pending + weight, DBL_MAX)",
            "first ? weight : m->weight_pending + weight",
        ),
        ("m->batch_size - m->n_pending >= 4)", "m->batch_size - m->n_pending >= 3)"),
        ("F(accumulate_four)(m, x, n, slope, first);", "F(accumulate_four)(m, x, n, slope, 1);"),
        ("F(standardize)(m, &x, m->scaled, weight > 0.0)", "F(standardize)(m, &x, m->scaled, 1)"),
        ("&& !F(row_is_finite)(x)) return i;", "&& 0) return i;"),
        (
            "if (m->track_loss && weight > 0.0) {\n            m->loss_sum += weight * loss;",
            "if (m->track_loss && weight > 0.0) {\n            m->loss_sum += loss;",
        ),
        (
            "(sparse ? m->lazy_step : x.n == m->n_features)",
            "(sparse || x.n == m->n_features)",
        ),
        (
            "if (m->n_pending == m->batch_size) F(update)(m, direct",
            "if (m->n_pending == m->batch_size + 1) F(update)(m, direct",
        ),
        ("F(update)(m, NULL, m->slope, share, 0)", "F(update)(m, NULL, m->slope, 1.0, 0)"),
        ("if (m->standardize) F(standardize)(m, &x, scaled, 0);", ""),
    ),
    *_of(
        "sparse.h",
        ("(n_columns - 1) >> shift >= SF_BUCKETS", "n_columns >> shift > SF_BUCKETS"),
        (
            "const uint32_t here = place[b];\n            place[b] = sum;",
            "const uint32_t here = place[b];",
        ),
        ("if (n > 24) {", "if (n > 100000) {", "the buckets only make sorting faster"),
        ("entry[j - 1].column > e.column ||", "entry[j - 1].column < e.column ||"),
        ("entry[j - 1].value > e.value", "entry[j - 1].value < e.value"),
        ("value[length - 1] += entry[i].value;", "value[length - 1] = entry[i].value;"),
        ("if (length && column[length - 1] == entry[i].column) {", "if (0) {"),
        ("uint32_t h = seed;", "uint32_t h = 0;"),
        ("i + 4 <= n; i += 4", "i + 4 < n; i += 4"),
        ("(uint32_t)data[i + 3] << 24;", "(uint32_t)data[i + 3] << 23;"),
        ("* 5 + 0xe6546b64u", "* 5 + 0xe6546b65u"),
        ("if (n - i >= 2) k ^= (uint32_t)data[i + 1] << 8;", ""),
        ("h ^= (uint32_t)n;", ""),
        ("h = (h ^ h >> 16) * 0x85ebca6bu;", "h = (h ^ h >> 15) * 0x85ebca6bu;"),
        ("return h ^ h >> 16;", "return h;"),
    ),
]
