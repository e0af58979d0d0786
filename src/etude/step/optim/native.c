/* Update rules over many arrays in one call, each array with settings of its own.
 *
 * Each of the `count` entries names an array, up to three memories and how often the array has moved, as addresses;
 * then its length, and the line of `settings` that holds for it. `gradients` are the addresses of the gradients. All
 * numbers of arrays are float32. A gradient is divided by `divisor` as it is read, so that a mean over samples costs no
 * pass of its own. With `counting` every array is counted as moved once more first. A negative learning rate climbs.
 *
 * Each loop is written once, and made by the compiler for every combination of the flags, which are constants there.
 */

#include <math.h>
#include <stdint.h>

typedef struct {
    float *array;
    float *memory[3];
    float *moved;
    int64_t length;
    int64_t line;
} entry;

#define INLINE static inline __attribute__((always_inline))

enum division { NONE, MULTIPLY, DIVIDE };

/* Division by a power of two is multiplication by its inverse, to the last bit, and quicker. */
static enum division division_by(double divisor, float *by) {
    int exponent;
    if (divisor == 1.0) return *by = 1.0f, NONE;
    if (frexp(divisor, &exponent) == 0.5) return *by = (float)(1.0 / divisor), MULTIPLY;
    return *by = (float)divisor, DIVIDE;
}

INLINE float mean_of(float gradient, float by, const enum division how) {
    return how == DIVIDE ? gradient / by : how == MULTIPLY ? gradient * by : gradient;
}

/* Calls a loop with its flags as constants, for each way to divide. */
#define FOR_EACH_DIVISION(how, call) \
    do { \
        if (how == NONE) call(NONE); \
        else if (how == MULTIPLY) call(MULTIPLY); \
        else call(DIVIDE); \
    } while (0)

/* ---- SGD: learning rate, weight decay, momentum, dampening, nesterov ---- */

INLINE void sgd(const entry *e, const float *restrict gradient, float rate, float sign, float decay, float momentum, float fresh, float by,
                const int remembers, const int nesterov, const enum division how) {
    float *restrict x = e->array;
    float *restrict buffer = e->memory[0];
    for (int64_t i = 0; i < e->length; i++) {
        float g = sign * mean_of(gradient[i], by, how) + decay * x[i];
        if (remembers) {
            float b = momentum * buffer[i] + fresh * g;
            buffer[i] = b;
            g = nesterov ? g + momentum * b : b;
        }
        x[i] -= rate * g;
    }
}

void etude_sgd(int64_t count, const entry *entries, const float *const *gradients, const double *settings,
               double divisor, int counting) {
    float by;
    enum division how = division_by(divisor, &by);
    for (int64_t k = 0; k < count; k++) {
        const entry *e = entries + k;
        const double *s = settings + 5 * e->line;
        if (counting) *e->moved += 1;
        float rate = (float)fabs(s[0]), sign = s[0] < 0 ? -1.0f : 1.0f, decay = (float)s[1], momentum = (float)s[2];
        float fresh = *e->moved <= 1.0f ? 1.0f : (float)(1.0 - s[3]);
#define PLAIN(how) sgd(e, gradients[k], rate, sign, decay, momentum, fresh, by, 0, 0, how)
#define MOMENTUM(how) sgd(e, gradients[k], rate, sign, decay, momentum, fresh, by, 1, 0, how)
#define NESTEROV(how) sgd(e, gradients[k], rate, sign, decay, momentum, fresh, by, 1, 1, how)
        if (momentum == 0) FOR_EACH_DIVISION(how, PLAIN);
        else if (s[4] != 0) FOR_EACH_DIVISION(how, NESTEROV);
        else FOR_EACH_DIVISION(how, MOMENTUM);
    }
}

/* ---- Adam: learning rate, weight decay, beta1, beta2, eps, amsgrad ---- */

INLINE void adam(const entry *e, const float *restrict gradient, float step, float sign, float coupled, float keep, float fresh1, float beta2,
                 float fresh2, float unbias, float eps, float by, const int largest, const enum division how) {
    float *restrict x = e->array;
    float *restrict mean = e->memory[0];
    float *restrict square = e->memory[1];
    float *restrict most = e->memory[2];
    for (int64_t i = 0; i < e->length; i++) {
        float g = sign * mean_of(gradient[i], by, how) + coupled * x[i];
        float m = mean[i] + fresh1 * (g - mean[i]);
        float v = beta2 * square[i] + fresh2 * (g * g);
        mean[i] = m;
        square[i] = v;
        if (largest) {
            v = most[i] > v ? most[i] : v;
            most[i] = v;
        }
        x[i] = keep * x[i] - step * (m / (sqrtf(v) * unbias + eps));
    }
}

INLINE void adam_all(int64_t count, const entry *entries, const float *const *gradients, const double *settings,
                     double divisor, int counting, const int decoupled) {
    double beta1 = -1, beta2 = -1, filled1 = 1, filled2 = 1;
    float moved = 0, by;
    enum division how = division_by(divisor, &by);
    for (int64_t k = 0; k < count; k++) {
        const entry *e = entries + k;
        const double *s = settings + 6 * e->line;
        if (counting) *e->moved += 1;
        if (s[2] != beta1 || s[3] != beta2 || *e->moved != moved) {
            beta1 = s[2], beta2 = s[3], moved = *e->moved;
            filled1 = 1.0 - pow(beta1, moved);
            filled2 = 1.0 - pow(beta2, moved);
        }
        double rate = fabs(s[0]);
        float sign = s[0] < 0 ? -1.0f : 1.0f, step = (float)(rate / filled1), unbias = (float)(1.0 / sqrt(filled2));
        float keep = decoupled ? (float)(1.0 - rate * s[1]) : 1.0f, coupled = decoupled ? 0.0f : (float)s[1];
        float fresh1 = (float)(1.0 - beta1), fresh2 = (float)(1.0 - beta2), kept2 = (float)beta2, eps = (float)s[4];
#define PLAIN_ADAM(how) adam(e, gradients[k], step, sign, coupled, keep, fresh1, kept2, fresh2, unbias, eps, by, 0, how)
#define AMSGRAD(how) adam(e, gradients[k], step, sign, coupled, keep, fresh1, kept2, fresh2, unbias, eps, by, 1, how)
        if (s[5] != 0) FOR_EACH_DIVISION(how, AMSGRAD);
        else FOR_EACH_DIVISION(how, PLAIN_ADAM);
    }
}

void etude_adam(int64_t count, const entry *entries, const float *const *gradients, const double *settings,
                double divisor, int counting) {
    adam_all(count, entries, gradients, settings, divisor, counting, 0);
}

void etude_adamw(int64_t count, const entry *entries, const float *const *gradients, const double *settings,
                 double divisor, int counting) {
    adam_all(count, entries, gradients, settings, divisor, counting, 1);
}
