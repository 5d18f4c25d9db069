#include "core/optim/adamw.h"

#include <math.h>
#include <string.h>

#include "core/base/rng.h"

const ht_optimizer_config ht_optimizer_defaults = {
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .decay = 0.1, .clip = 1.0};

static ht_status init_moments(ht_trainable *t, ht_arena *arena, ht_error *err) {
    static const ht_dtype dtypes[] = {HT_F32, HT_BF16, HT_U8};
    const ht_layout *layout = &t->model->layout;
    ht_dtype dtype = dtypes[t->options.state];
    ht_status status = HT_OK;
    HT_TRY(ht_params_init(&t->m, layout, dtype, HT_MEMORY_OPTIMIZER, arena, err));
    HT_TRY(ht_params_init(&t->v, layout, dtype, HT_MEMORY_OPTIMIZER, arena, err));
    if (t->options.state != HT_ADAMW_8BIT) goto done;
    HT_TRY(ht_layout_init_blocks(&t->scale_layout, layout, HT_ADAMW_BLOCK, err));
    HT_TRY(ht_params_init(&t->m_scale, &t->scale_layout, HT_F32, HT_MEMORY_OPTIMIZER, arena, err));
    HT_TRY(ht_params_init(&t->v_scale, &t->scale_layout, HT_F32, HT_MEMORY_OPTIMIZER, arena, err));
done:
    return status;
}

ht_status ht_trainable_init(ht_trainable *trainable, ht_llama *model, const ht_trainable_options *options,
                            ht_arena *arena, ht_error *err) {
    *trainable = (ht_trainable){.model = model, .options = *options};
    const ht_layout *layout = &model->layout;
    ht_status status = HT_OK;
    if (model->weights.dtype == HT_BF16 && options->state == HT_ADAMW_F32)
        HT_TRY(ht_params_init(&trainable->low, layout, HT_U16, HT_MEMORY_OPTIMIZER, arena, err));
    if (options->lends)
        HT_TRY(ht_params_init_over(&trainable->grads, layout, &options->lends->grads, HT_MEMORY_GRADIENTS, arena, err));
    else
        HT_TRY(ht_params_init(&trainable->grads, layout, HT_F32, HT_MEMORY_GRADIENTS, arena, err));
    HT_TRY(init_moments(trainable, arena, err));
done:
    if (status) ht_trainable_free(trainable);
    return status;
}

void ht_trainable_free(ht_trainable *trainable) {
    ht_params *all[] = {&trainable->low, &trainable->grads,   &trainable->m,
                        &trainable->v,   &trainable->m_scale, &trainable->v_scale};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ht_params_free(all[i]);
    ht_layout_free(&trainable->scale_layout);
    memset(trainable, 0, sizeof *trainable);
}

int ht_trainable_parts(ht_trainable *t, ht_trainable_part parts[HT_TRAINABLE_PARTS]) {
    const ht_trainable_part all[] = {{"weights", &t->model->weights}, {"low", &t->low},         {"m", &t->m}, {"v", &t->v},
                                     {"m_scale", &t->m_scale},        {"v_scale", &t->v_scale}};
    int count = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].params->units) parts[count++] = all[i];
    return count;
}

/* Says which gradient went bad. */
static ht_status report_non_finite(const ht_trainable *trainable, ht_error *err) {
    const ht_layout *layout = &trainable->model->layout;
    for (int64_t index = 0; index < layout->count; index++) {
        ht_tensor g = ht_params_tensor(&trainable->grads, index);
        double sum;
        ht_status status = ht_sum_squares(trainable->model->be, g.data, g.rows * g.cols, &sum, err);
        if (status) return status;
        if (!isfinite(sum))
            return ht_fail(err, HT_ERR_RUN, "the gradient of \"%s\" is not finite", layout->params[index].name);
    }
    return ht_fail(err, HT_ERR_RUN, "the gradient's norm is not finite");
}

static ht_status gradient_norm(const ht_trainable *trainable, double *norm, ht_error *err) {
    const ht_layout *layout = &trainable->model->layout;
    double total = 0;
    for (int64_t unit = 0; unit < layout->units; unit++) {
        double sum;
        ht_status status = ht_sum_squares(trainable->model->be, trainable->grads.units[unit], layout->unit_size[unit],
                                          &sum, err);
        if (status) return status;
        total += sum;
    }
    *norm = sqrt(total);
    return isfinite(total) ? HT_OK : report_non_finite(trainable, err);
}

/* Parameter `index` of params; NULL of empty ones. */
static void *data_of(const ht_params *params, int64_t index) {
    return params->units ? ht_params_tensor(params, index).data : NULL;
}

static ht_status update_parameter(ht_trainable *t, int64_t index, const ht_adamw_args *args, ht_error *err) {
    const ht_llama *model = t->model;
    const ht_param *param = &model->layout.params[index];
    ht_adamw_args own = *args;
    if (!param->decay) own.decay = 0;
    uint64_t place = (uint64_t)t->options.number << 32 | (uint64_t)index;
    return ht_adamw(model->be,
                    &(ht_adamw_run){.state = t->options.state,
                                    .dtype = model->weights.dtype,
                                    .w = data_of(&model->weights, index),
                                    .low = data_of(&t->low, index),
                                    .m = data_of(&t->m, index),
                                    .v = data_of(&t->v, index),
                                    .m_scale = data_of(&t->m_scale, index),
                                    .v_scale = data_of(&t->v_scale, index),
                                    .grad = data_of(&t->grads, index),
                                    .n = param->rows * param->cols,
                                    .seed = t->options.seed,
                                    .stream = ht_rng_stream(HT_RNG_ROUND, place, (uint64_t)args->step)},
                    &own, err);
}

ht_status ht_optimizer_step(ht_trainable *trainable, const ht_optimizer_config *config, double lr, double *norm,
                            ht_error *err) {
    ht_status status = HT_OK;
    const ht_layout *layout = &trainable->model->layout;
    HT_TRY(gradient_norm(trainable, norm, err));
    ht_adamw_args args = {
        .lr = lr,
        .beta1 = config->beta1,
        .beta2 = config->beta2,
        .eps = config->eps,
        .decay = config->decay,
        .grad_scale = config->clip > 0 && *norm > config->clip ? config->clip / *norm : 1.0,
        .step = trainable->updates + 1,
    };
    for (int64_t index = 0; index < layout->count; index++)
        HT_TRY(update_parameter(trainable, index, &args, err));
    trainable->updates++;
done:
    return status;
}

double ht_schedule_rate(const ht_schedule *schedule, int64_t step) {
    if (step < schedule->warmup) return schedule->lr * (double)(step + 1) / (double)schedule->warmup;
    if (schedule->kind == HT_SCHEDULE_CONSTANT) return schedule->lr;
    int64_t length = schedule->steps - 1 - schedule->warmup;
    double done = length > 0 ? (double)(step - schedule->warmup) / (double)length : 1.0;
    double share = schedule->final + (1 - schedule->final) * 0.5 * (1 + cos(3.14159265358979323846 * done));
    return schedule->lr * share;
}
