#include "core/optim/adamw.h"

#include <math.h>
#include <string.h>


const ht_optimizer_config ht_optimizer_defaults = {
    .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-5, .decay = 0.1, .clip = 1.0};

/* One unit as a row. */
static ht_tensor unit_row(const ht_params *params, int64_t unit) {
    return ht_tensor_of(params->units[unit], params->dtype, 1, params->layout->unit_size[unit]);
}

static ht_status copy_units(ht_backend *be, ht_params *to, const ht_params *from, ht_error *err) {
    ht_status status = HT_OK;
    for (int64_t unit = 0; unit < to->layout->units; unit++) {
        ht_tensor y = unit_row(to, unit), x = unit_row(from, unit);
        HT_TRY(ht_copy(be, &y, &x, err));
    }
done:
    return status;
}

static ht_status init_master(ht_trainable *trainable, ht_arena *arena, ht_error *err) {
    ht_llama *model = trainable->model;
    ht_status status = HT_OK;
    if (model->weights.dtype == HT_F32) return ht_params_share(&trainable->master, &model->weights, err);
    HT_TRY(ht_params_init(&trainable->master, &model->layout, HT_F32, HT_MEMORY_OPTIMIZER, arena, err));
    if (!arena->planning) HT_TRY(copy_units(model->be, &trainable->master, &model->weights, err));
done:
    return status;
}

ht_status ht_trainable_init(ht_trainable *trainable, ht_llama *model, ht_arena *arena, ht_error *err) {
    *trainable = (ht_trainable){.model = model};
    ht_status status = HT_OK;
    HT_TRY(init_master(trainable, arena, err));
    HT_TRY(ht_params_init(&trainable->grads, &model->layout, HT_F32, HT_MEMORY_GRADIENTS, arena, err));
    HT_TRY(ht_params_init(&trainable->m, &model->layout, HT_F32, HT_MEMORY_OPTIMIZER, arena, err));
    HT_TRY(ht_params_init(&trainable->v, &model->layout, HT_F32, HT_MEMORY_OPTIMIZER, arena, err));
done:
    if (status) ht_trainable_free(trainable);
    return status;
}

void ht_trainable_free(ht_trainable *trainable) {
    ht_params_free(&trainable->master);
    ht_params_free(&trainable->grads);
    ht_params_free(&trainable->m);
    ht_params_free(&trainable->v);
    memset(trainable, 0, sizeof *trainable);
}

ht_status ht_trainable_refresh(ht_trainable *trainable, ht_error *err) {
    ht_llama *model = trainable->model;
    return model->weights.dtype == HT_F32 ? HT_OK : copy_units(model->be, &model->weights, &trainable->master, err);
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

/* Parameters that follow each other in a unit and agree on decay are updated as one run. */
static ht_status update_unit(ht_trainable *trainable, int64_t first, int64_t end, const ht_adamw_args *args,
                             double decay, ht_error *err) {
    ht_status status = HT_OK;
    const ht_llama *model = trainable->model;
    const ht_param *params = model->layout.params;
    int rounded = model->weights.dtype == HT_BF16;
    for (int64_t i = first; i < end;) {
        int64_t next = i + 1, unit = params[i].unit, offset = params[i].offset;
        while (next < end && params[next].decay == params[i].decay)
            next++;
        const ht_param *last = &params[next - 1];
        int64_t n = last->offset + last->rows * last->cols - offset;
        ht_adamw_args run = *args;
        run.decay = params[i].decay ? decay : 0;
        HT_TRY(ht_adamw(model->be,
                        &(ht_adamw_run){.w = (float *)trainable->master.units[unit] + offset,
                                        .bf16 = rounded ? (uint16_t *)model->weights.units[unit] + offset : NULL,
                                        .m = (float *)trainable->m.units[unit] + offset,
                                        .v = (float *)trainable->v.units[unit] + offset,
                                        .grad = (float *)trainable->grads.units[unit] + offset,
                                        .n = n},
                        &run, err));
        i = next;
    }
done:
    return status;
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
        .grad_scale = config->clip > 0 && *norm > config->clip ? config->clip / *norm : 1.0,
        .step = trainable->updates + 1,
    };
    for (int64_t first = 0; first < layout->count;) {
        int64_t end = first + 1;
        while (end < layout->count && layout->params[end].unit == layout->params[first].unit)
            end++;
        HT_TRY(update_unit(trainable, first, end, &args, config->decay, err));
        first = end;
    }
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
