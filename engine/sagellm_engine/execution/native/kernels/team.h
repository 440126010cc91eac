// Threads that run one function together, phase by phase.
//
// The pieces of a phase are claimed one by one, and a phase is over when its pieces are, whoever did them: a thread that
// the system has put aside between two pieces holds nobody up, and passes over what was done without it. Threads wait
// by spinning: a phase takes microseconds.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <sched.h>

namespace sage {

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

class Team {
  public:
    explicit Team(int threads) : size(threads) {
        for (int i = 1; i < size; i++) members_.emplace_back([this, i] { serve(i); });
    }

    ~Team() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            closing_ = true;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        for (auto& member : members_) member.join();
    }

    // Runs `work(thread)` on every thread; the caller is thread 0. It has `phases` phases at most.
    void run(const std::function<void(int)>& work, size_t phases) {
        if (phases_.size() < phases) phases_ = std::vector<Phase>(phases);
        for (size_t i = 0; i < phases; i++) {
            phases_[i].next.store(0, std::memory_order_relaxed);
            phases_[i].finished.store(0, std::memory_order_relaxed);
        }
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            generation_.fetch_add(1);
        }
        wake_.notify_all();
        work(0);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_ = nullptr;  // who has not begun yet need not
        }
        for (int spins = 0; inside_.load(std::memory_order_acquire);) pause(spins);
    }

    // Calls f(piece) for those of the `count` pieces of a phase that no other thread has; all are done when it returns.
    template <class F>
    void each(int phase, int count, F f) {
        Phase& p = phases_[phase];
        for (int piece; (piece = p.next.fetch_add(1, std::memory_order_relaxed)) < count;) {
            f(piece);
            p.finished.fetch_add(1, std::memory_order_release);
        }
        for (int spins = 0; p.finished.load(std::memory_order_acquire) < count;) pause(spins);
    }

    const int size;

  private:
    struct alignas(64) Phase { std::atomic<int> next{0}, finished{0}; };

    static void pause(int& spins) {
        if (++spins < 4000) return relax();
        sched_yield();  // somebody else needs this core, perhaps the thread that is waited for
    }

    void serve(int thread) {
        for (unsigned seen = 0;;) {
            for (int spins = 0; generation_.load(std::memory_order_acquire) == seen && spins < 500; spins++) relax();
            const std::function<void(int)>* work;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
                seen = generation_.load();
                if (closing_) return;
                work = work_;
                if (work) inside_.fetch_add(1);
            }
            if (!work) continue;
            (*work)(thread);
            inside_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::vector<std::thread> members_;
    std::vector<Phase> phases_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<unsigned> generation_{0};
    std::atomic<int> inside_{0};
    const std::function<void(int)>* work_ = nullptr;
    bool closing_ = false;
};

}  // namespace sage
