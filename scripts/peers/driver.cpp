// One case of llama.cpp, of ik_llama.cpp (-DIK_LLAMA) or of EdgeLoRA (-DEDGE_LORA), through its public interface; prints
// one line of JSON.
//
//   driver MODEL THREADS decode|prefill BATCH LENGTH STEPS [ADAPTER...]
//   driver MODEL tokens FILE          llama.cpp only: the tokens of a text, as llama-perplexity takes them
//
// decode: a token of each of BATCH sequences that hold LENGTH tokens; prefill: prompts of LENGTH tokens. One step before
// the timed ones is not counted among them. A context has one set of adapters: with several, the sequences are computed
// one after the other, each with its own, as llama.cpp's server does with requests of different adapters. EdgeLoRA takes
// an adapter for each token of a batch (EDGE_LORA_MIXED=1), and a look at its graph and logits shows that none of them is
// computed then.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <list>
#include <memory>
#include <sstream>
#include <stack>
#include <string>
#include <unordered_set>
#include <vector>

#include "llama.h"

using Clock = std::chrono::steady_clock;

// Whether one batch has several adapters.
static bool is_mixed() {
#ifdef EDGE_LORA
    return getenv("EDGE_LORA_MIXED") != nullptr;
#else
    return false;
#endif
}

#ifdef EDGE_LORA
// Adapters have numbers; 0 is none of them.
using Adapter = llama_lazy_lora_adapter_container;
static std::vector<Adapter *> registered;
static int number(Adapter *adapter) {
    int i = 0;
    while (registered[i] != adapter) i++;
    return i;
}
static Adapter *open_adapter(llama_context *context, const char *path) {
    do {
        auto *adapter = new Adapter();
        adapter->path = path;
        registered.push_back(adapter);
        llama_lazy_lora_adapter_register(context, adapter);
    } while (registered.size() < 2);
    llama_lazy_load_lora_adapter(context, registered.size() - 1);
    return registered.back();
}
static int take_adapter(llama_context *context, Adapter *adapter) {
    return llama_lora_adapter_id_set(context, number(adapter));
}
static void clear(llama_context *context) { llama_kv_cache_clear(context); }
#define llama_model_load_from_file llama_load_model_from_file
#define llama_init_from_model llama_new_context_with_model
#elif defined(IK_LLAMA)
using Adapter = llama_lora_adapter;
static Adapter *open_adapter(llama_context *context, const char *path) {
    return llama_lora_adapter_init(const_cast<llama_model *>(llama_get_model(context)), path);
}
static int take_adapter(llama_context *context, Adapter *adapter) {
    llama_lora_adapter_clear(context);
    return llama_lora_adapter_set(context, adapter, 1.0f);
}
static void clear(llama_context *context) { llama_kv_cache_clear(context); }
#else
using Adapter = llama_adapter_lora;
static Adapter *open_adapter(llama_context *context, const char *path) {
    return llama_adapter_lora_init(const_cast<llama_model *>(llama_get_model(context)), path);
}
static int take_adapter(llama_context *context, Adapter *adapter) {
    float scale = 1.0f;
    return llama_set_adapters_lora(context, &adapter, 1, &scale);
}
static void clear(llama_context *context) { llama_memory_clear(llama_get_memory(context), false); }
#endif

[[noreturn]] static void fail(const std::string &what) {
    fprintf(stderr, "driver: %s\n", what.c_str());
    exit(1);
}

static double ms_since(Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

struct Case {
    llama_context *context;
    std::vector<Adapter *> adapters;
    bool is_decode;
    int n_sequences, length;
    llama_batch batch;

    void add(int position, int sequence, bool is_last) {
        int i = batch.n_tokens++;
        batch.token[i] = (position * 7919 + sequence) % 30000;  // any vocabulary holds these
        batch.pos[i] = position;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = sequence;
        batch.logits[i] = is_last;
#ifdef EDGE_LORA
        bool has_one = !adapters.empty() && is_mixed() && position >= length;
        batch.adapter_id[i] = has_one ? number(adapters[sequence % adapters.size()]) : 0;
#endif
    }

    bool takes_turns() const { return adapters.size() > 1 && !is_mixed(); }

    void compute() {
        if (llama_decode(context, batch) != 0) fail("llama_decode fails");
        llama_synchronize(context);
        batch.n_tokens = 0;
    }

    void choose(int sequence) {
        if (takes_turns() && take_adapter(context, adapters[sequence % adapters.size()]) != 0)
            fail("an adapter cannot be set");
    }

    void prompt(int sequence) {
        for (int i = 0; i < length; i++) add(i, sequence, i == length - 1);
        compute();
    }

    // Nothing here depends on logits: tokens are given.
    void step(int index) {
        if (!is_decode) clear(context);
        for (int sequence = 0; sequence < n_sequences; sequence++) {
            choose(sequence);
            if (!is_decode) {
                prompt(sequence);
                continue;
            }
            add(length + index, sequence, true);
            if (takes_turns() || sequence == n_sequences - 1) compute();
        }
    }
};

static void silent(ggml_log_level level, const char *text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

#if !defined(IK_LLAMA) && !defined(EDGE_LORA)
static int print_tokens(const char *model_path, const char *text_path) {
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model *model = llama_model_load_from_file(model_path, params);
    std::ifstream file(text_path);
    if (!model || !file) fail("no model or no text");
    std::stringstream content;
    content << file.rdbuf();
    std::string text = content.str();
    const llama_vocab *vocab = llama_model_get_vocab(model);
    std::vector<llama_token> tokens(text.size() + 8);
    int n = llama_tokenize(vocab, text.data(), text.size(), tokens.data(), tokens.size(), true, false);
    if (n < 0) fail("no tokens");
    printf("{\"begins_with\": %d, \"tokens\": [", llama_vocab_get_add_bos(vocab) ? llama_vocab_bos(vocab) : -1);
    for (int i = 0; i < n; i++) printf("%s%d", i ? ", " : "", tokens[i]);
    printf("]}\n");
    return 0;
}
#endif

int main(int argc, char **argv) {
#if !defined(IK_LLAMA) && !defined(EDGE_LORA)
    if (argc == 4 && strcmp(argv[2], "tokens") == 0) {
        llama_log_set(silent, nullptr);
        return print_tokens(argv[1], argv[3]);
    }
#endif
    if (argc < 7) fail("MODEL THREADS decode|prefill BATCH LENGTH STEPS [ADAPTER...]");
    int n_threads = atoi(argv[2]), n_sequences = atoi(argv[4]), length = atoi(argv[5]), n_steps = atoi(argv[6]);
    bool is_decode = strcmp(argv[3], "decode") == 0;
    llama_log_set(silent, nullptr);
    auto begin = Clock::now();
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    llama_context_params params = llama_context_default_params();
#ifdef IK_LLAMA
    // Run-time repacking.
    model_params.repack_tensors = true;
    model_params.use_mmap = false;
    // It refuses adapters with it.
    params.flash_attn = argc <= 7;
#elif defined(EDGE_LORA)
    params.flash_attn = false;
    params.batch_lora = is_mixed();
#else
    params.kv_unified = false;
#endif
    llama_model *model = llama_model_load_from_file(argv[1], model_params);
    if (!model) fail("the model cannot be loaded");
    int per_sequence = length + (is_decode ? n_steps + 1 : 0);
    params.n_ctx = n_sequences * ((per_sequence + 255) / 256 * 256);
    params.n_batch = length > 2048 ? length : 2048;
    params.n_ubatch = 512;
    params.n_seq_max = n_sequences;
    params.n_threads = params.n_threads_batch = n_threads;
    llama_context *context = llama_init_from_model(model, params);
    if (!context) fail("no context");
    Case the_case{context, {}, is_decode, n_sequences, length, llama_batch_init(params.n_batch, 0, 1)};
    for (int i = 7; i < argc; i++) {
        Adapter *adapter = open_adapter(context, argv[i]);
        if (!adapter) fail(std::string("no adapter: ") + argv[i]);
        the_case.adapters.push_back(adapter);
    }
    if (!the_case.adapters.empty() && take_adapter(context, the_case.adapters[0]) != 0) fail("no adapter is set");
    double load_ms = ms_since(begin);
    if (is_decode) {
        for (int sequence = 0; sequence < n_sequences; sequence++) the_case.prompt(sequence);
    }
    begin = Clock::now();
    the_case.step(0);
    double first_step_ms = ms_since(begin);
    begin = Clock::now();
    for (int i = 1; i <= n_steps; i++) the_case.step(i);
    double step_ms = ms_since(begin) / n_steps;
    int n_tokens = n_sequences * (is_decode ? 1 : length);
    printf("{\"load_ms\": %.3f, \"first_step_ms\": %.3f, \"step_ms\": %.4f, \"tokens_per_second\": %.4f}\n", load_ms,
           first_step_ms, step_ms, n_tokens / step_ms * 1e3);
    llama_batch_free(the_case.batch);
    llama_free(context);
    return 0;
}
