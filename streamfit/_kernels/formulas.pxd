from libc.stdint cimport int32_t, int64_t, uint8_t

cdef extern from "model.h" nogil:
    enum: SF_PAD, SF_SLOTS, SF_L1
    enum:
        SF_SQUARED, SF_HALF_SQUARED, SF_ABSOLUTE, SF_HUBER, SF_EPSILON_INSENSITIVE, SF_QUANTILE
        SF_POISSON, SF_LOG, SF_HINGE, SF_SQUARED_HINGE, SF_MODIFIED_HUBER, SF_CROSS_ENTROPY
    enum: SF_SGD, SF_ADAGRAD, SF_ADADELTA, SF_RMSPROP, SF_ADAM, SF_ADAMW, SF_AMSGRAD, SF_FTRL
    enum: SF_AUTO
    enum:
        SF_CONSTANT, SF_INVERSE_SCALING, SF_OPTIMAL, SF_EXPONENTIAL, SF_STEP, SF_COSINE_WARMUP
    enum: SF_FIXED_BATCH, SF_GEOMETRIC_BATCH, SF_MILESTONE_BATCH, SF_NOISE_SCALE_BATCH
    enum: SF_MEANS
    ctypedef struct sf_noise:
        int64_t every
        double decay, squares, weight_2
        int64_t n
        double mean[7]
    ctypedef struct sf_linear:
        int loss, optimizer, mean, fit_intercept, plain_intercept, nesterov
        double loss_option, momentum, rho, beta_1, beta_2, eps, weight_decay
        double ftrl_beta, ftrl_l1, ftrl_l2, prior, bound, l2, l1, clip, intercept_lr, max_weight
        int lazy_l2, lazy_step, schedule
        double lr
        double schedule_option[3]
        int batch_schedule
        double batch_growth
        int64_t batch_every, batch_minimum, batch_maximum, n_milestones
        const int64_t* milestone
        int n_slots
        int uses_slot[4]
        int64_t batch_size, n_features, n_outputs, stride
        int64_t n_samples, n_updates, n_pending, n_refused, schedule_start
        double lr_factor, weight_pending, beta_1_power, beta_2_power, l1_total, weight_scale
        void* param
        void* next_param
        void* grad
        void* curvature
        void* slot[4]
        void* next_slot[4]
        int sparse_pending
        int64_t n_touched
        int32_t* touched
        uint8_t* mark
        int standardize
        int64_t n_scaled
        double* mean_of
        double* next_mean_of
        double* variance_of
        double* next_variance_of
        double* predictor
        double* slope
        void* scaled
        void* gathered[5]
        int track_loss
        double loss_sum, loss_weight
        sf_noise noise
    double sf_loss_value(int, double, double, double)
    double sf_loss_gradient(int, double, double, double)
    double sf_loss_curvature(int, double, double, double)
    double sf_learning_rate(const sf_linear*)
    void sf_begin_measuring(sf_linear*)
    double sf_exp(double)
    double sf_sigmoid(double)
    void sf_forget_pending(sf_linear*)


cdef double loss_option(dict loss) except? -1.0
cdef int set_schedule(sf_linear* m, dict schedule) except -1
cdef double mean_of(int loss, double p) noexcept nogil
